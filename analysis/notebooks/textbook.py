# %% [markdown]
# # What a textbook says of batch normalization
#
# Courses teach batch normalization (BN) with a small network, one comparison, and a reason. Dive into Deep Learning
# adds it to LeNet, trains on Fashion-MNIST at a learning rate of 1 for ten epochs, and prints two accuracies. A
# tutorial puts it behind two of four layers. A course page says that it keeps the distribution of weights stable, and
# that it removes internal covariate shift. This notebook asks each of them: is that so, over five seeds, with the
# other things kept equal?
#
# Every cell below draws a figure from the tables in this repository and judges its claims by criteria that were
# written down before the measurement. Blue is with BN, orange without.

# %%
from bnstudy.notebook import show

# %% [markdown]
# ## The printed numbers
#
# The chapter writes its own BN layer, then uses the library's, and prints the last epoch of one run of each.

# %%
show("textbook_lenet")

# %% [markdown]
# ## What the comparison confounds
#
# Between the chapter on LeNet and the one on BN more changes than BN: the pooling, the padding, the learning rate.
# Here all eight combinations of the first three are trained at the same rate. If the effect of BN were that of
# pooling, panel (c) would show it.

# %%
show("textbook_confounds")

# %% [markdown]
# ## Which learning rates does LeNet survive?
#
# A grid of rates, with BN and without.

# %%
show("lenet_lr")

# %% [markdown]
# And where exactly does it end? Between the last rate that trains and the first that does not, by bisection:

# %%
show("lenet_region")

# %% [markdown]
# ## Does BN train faster?
#
# At one rate, or only because it may use another?

# %%
show("textbook_faster")

# %% [markdown]
# ## BN behind some layers only

# %%
show("textbook_partial")

# %% [markdown]
# ## Training mode and evaluation mode
#
# A layer with BN is two functions. In training it normalizes by the mini-batch, in evaluation by running statistics.
# The commonest bug is to forget the switch; here is what it costs, and when it goes unnoticed.

# %%
show("textbook_modes")

# %% [markdown]
# ## Images from another source
#
# The running statistics belong to the training images. What if the camera changes?

# %%
show("textbook_input_shift")

# %% [markdown]
# ## Are weights more stable with BN?
#
# A perceptron, as on the course page: how far its weights drift, how many of its units saturate, and how large its
# gradients are.

# %%
show("textbook_mlp")

# %% [markdown]
# ## Internal covariate shift
#
# The explanation that the inventors of BN gave, that courses repeat, and that the paper disputes: without BN the
# inputs of a layer change their distribution with every update of the layers before it. So measure that change. And
# put noise behind BN that moves the inputs anew in every step, as Santurkar and others did: if the explanation is
# right, training should suffer.

# %%
show("textbook_covariate_shift")
