# %% [markdown]
# # Learning rates and generalisation (section 2)
#
# The paper's thesis: batch normalization (BN) helps because it allows larger learning rates, and larger learning
# rates make SGD noisier, which makes the network generalise better. At one small learning rate, then, a network with
# BN should be no better than one without; and of two networks with BN the one with the larger rate should be better,
# and overfit less.
#
# Every cell below draws a figure from the published tables and judges its claims by criteria. A criterion that was
# laid down after a look at the data says so. Blue is with BN, orange without.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Four arms, at a laptop's scale
#
# The paper trains ResNet-110 for 165 epochs at 0.1, and at 0.0001 for 2,400. Here the same four arms are a ResNet-20 on
# a tenth of the images, for ten epochs each. The figure shows the picture at this scale; only the paper's scale can
# tell whether the paper's networks behave in this way. Ask of the figure: are the blue curves in the order of their
# rates?

# %%
show("fig1_quick")

# %% [markdown]
# In ten epochs no network fits its training data, and the faster one looks like the one that generalises better. More
# epochs without augmentation mend that: 5,000 images again, every rate for as long as it takes to fit them. Before
# looking: if all three end at 100 % of the training images, what is left for the learning rate to change?

# %%
show("fitted")

# %% [markdown]
# The same at the paper's scale, each arm for as long as the paper trains it; then all four for 165 epochs, a
# fourteenth of the paper's training at 0.0001: what does equal work give? These runs need a GPU; until they are
# published, the cells name the command that trains them.

# %%
show("fig1_paper")

# %%
show("fig1_matched")

# %% [markdown]
# ## At which rates does a network train?
#
# Without BN ResNet-110 diverges at 0.1, says the paper. Training its network at the rates of its grid, and searching
# for the largest rate that trains, need a GPU:

# %%
show("lr_grid")

# %% [markdown]
# The first epoch needs no GPU: the paper's network at the paper's rates, on all images.

# %%
show("stability_grid")

# %% [markdown]
# Between those rates a search finds the largest that each network bears in this epoch:

# %%
show("stability_largest")

# %% [markdown]
# The same question at a laptop's scale, for another network: a ResNet-20 on few images, for fewer updates and at other
# rates. It can show whether BN widens the range of rates. The rates themselves hold for this network only.

# %%
show("lr_grid_reduced")

# %% [markdown]
# Without BN shallower networks should train at larger rates, for there are fewer layers to multiply through (appendix
# H):

# %%
show("depth_lr")

# %%
show("depth_lr_reduced")

# %% [markdown]
# ## The noise of a step
#
# A step of SGD is the gradient of a mini-batch of $b$ of $N$ images. Its mean squared deviation from the gradient of
# all images is (equation 3 of the paper)
# $$\alpha^2 \frac{N - b}{b\,(N - 1)}\, C, \qquad C = \frac{1}{N}\sum_i \|\nabla\ell_i - \nabla\ell\|^2,$$
# so it falls with the size of the mini-batch and grows with the square of the rate $\alpha$. The derivation needs the
# gradient of a single example. With BN there is none, for each image's output depends on the others in its
# mini-batch; what holds there is an empirical question, and the last panels ask it.

# %%
show("gradient_noise")

# %% [markdown]
# At fixed weights the square of the rate is an identity. Along training another rate leads to other weights, where
# the gradients differ by something else:

# %%
show("noise_training")

# %% [markdown]
# ## Do larger rates find flatter minima?
#
# The paper argues, and does not measure, that noise keeps SGD out of sharp minima. The sharpness of a minimum is here
# the largest eigenvalue of the Hessian of the loss. A step of plain gradient descent is stable only below twice its
# inverse, so that a rate bounds the sharpness of what it can settle in, noise or not.

# %%
show("sharpness")

# %% [markdown]
# With BN the loss does not change when the weights before a norm are scaled; the eigenvalue does. So the same once
# more, with every weight measured by the norm of its tensor:

# %%
show("relative_sharpness")

# %% [markdown]
# LeNet is small. The same eigenvalue for the paper's networks, at the ends of its own trainings and of equal ones:

# %%
show("sharpness_paper")

# %%
show("sharpness_matched")

# %% [markdown]
# ## And does the number format matter?
#
# bf16 is fast on today's machines. Does a sweep that trains in it lead to other conclusions?

# %%
show("precision")
