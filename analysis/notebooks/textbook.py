# %% [markdown]
# # Batch normalization, as courses teach it
#
# A mini-batch passes through a layer; each channel of its output is shifted and scaled to mean 0 and variance 1 over
# the mini-batch, then scaled by $\gamma$ and shifted by $\beta$, which are learned:
#
# $$y = \gamma\,\frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} + \beta .$$
#
# That is all. What is said about it is more: that it makes training faster, allows larger learning rates, forgives bad
# initialisation, stabilises distributions. Each section below takes one such sentence, says beforehand what would
# count as true, and looks. The numbers are those of the tables in `results/tables`, made by `make textbook
# PRESET=full`: five networks an arm, each from another seed. Nothing is trained here.

# %%
from bnstudy.notebook import show

# %% [markdown]
# ## The chapter's own numbers
#
# Dive into Deep Learning trains LeNet with BN for ten epochs at learning rate 1 and prints loss, accuracies and speed:
# once with a layer written out, once with the library's. Before looking: would you expect two implementations of one
# formula to differ by eight points of test accuracy, as the two printed numbers (0.878 and 0.796) do?

# %%
show("textbook_lenet")

# %% [markdown]
# ## What else was changed
#
# The chapter without BN uses average pooling, padding 2, learning rate 0.9; the one with BN max pooling, none, 1.0.
# Which part of the gain is BN's? Eight networks, every combination: an effect is the difference between the four that
# have a thing and the four that have not.

# %%
show("textbook_confounds")

# %% [markdown]
# ## Which learning rates does it survive?
#
# A grid of rates over four and a half decades; then, for each seed, where exactly training ends, by bisection.

# %%
show("lenet_lr")

# %%
show("lenet_region")

# %% [markdown]
# ## Faster, or only at its own learning rate?
#
# Two networks can be compared at the same learning rate, or each at its best. The answers need not agree.

# %%
show("textbook_faster")

# %% [markdown]
# ## BN behind some layers
#
# A tutorial puts BN behind two of its four layers. It also puts a ReLU on the classifier's outputs: think about what
# happens to a class whose output is below zero for every image, and what its gradient is then.

# %%
show("textbook_partial")

# %% [markdown]
# Which layers need it? All sixteen subsets of LeNet's four places:

# %%
show("textbook_subsets")

# %% [markdown]
# ## Other transforms in its place
#
# Normalization by other statistics (of a layer, a group, a single image), a full covariance, the rank of a value in its
# mini-batch, or no normalization but dropout.

# %%
show("textbook_normalisers")

# %% [markdown]
# ## Why the test accuracy jumps
#
# Training goes smoothly, test accuracy does not. The running statistics are averages over the last mini-batches, whose
# weights were other ones.

# %%
show("textbook_statistics")

# %% [markdown]
# ## The size of the mini-batch
#
# The chapter says that 50 to 100 images are best, for then the noise of the statistics regularises. The control: the
# same mini-batch of 256, with statistics of a part of it.

# %%
show("textbook_batch_size")

# %%
show("textbook_ghost_batch")

# %% [markdown]
# And with only a few images, where other norms were invented to do better:

# %%
show("textbook_tiny_batches")

# %% [markdown]
# ## Weights, units, gradients
#
# A perceptron shows what the words *stable*, *saturated*, *vanishing* mean in numbers. The scale of the initial weights
# is wrong on purpose, by a factor of ten in both directions. With BN behind a layer its weights' scale cancels: try to
# see from the formula above why the gradient in the hidden layer then hardly depends on that factor.

# %%
show("textbook_mlp")

# %% [markdown]
# ## Two modes
#
# In training, BN uses the mini-batch's statistics; in evaluation, running averages. So a network has two answers to
# one image, and `eval()` chooses. What does forgetting it cost, and does it matter in which order the images come?

# %%
show("textbook_modes")

# %% [markdown]
# ## Images from another source
#
# Trained on one kind of images, tested on another. BN's statistics belong to the first. They can be estimated anew on
# the second, without a single label: a change of contrast, being one factor and one shift for all pixels, is then
# undone entirely by the first layer's norm.

# %%
show("textbook_input_shift")

# %% [markdown]
# ## Why it works: internal covariate shift?
#
# The usual explanation: layers learn slowly because the distribution of their inputs keeps moving. If so, networks
# whose inputs move more should train worse, and noise put in after BN, which moves them at every step, should undo what
# BN gives. Santurkar et al. (2018) made that experiment; here it is on LeNet.

# %%
show("textbook_covariate_shift")
