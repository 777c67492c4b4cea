# %% [markdown]
# # Batch normalization in a textbook's chapter: LeNet
#
# A mini-batch passes through a layer; each channel of its output is shifted and scaled to mean 0 and variance 1 over
# the mini-batch, then scaled by $\gamma$ and shifted by $\beta$, which are learned:
#
# $$y = \gamma\,\frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} + \beta .$$
#
# That is all. Much more is said about it: that it makes training faster, allows larger learning rates, forgives bad
# initialisation, stabilises distributions. Five notebooks take such sentences one by one, say beforehand what would
# count as true, and look. This one follows the chapter of Dive into Deep Learning and its exercises, `tutorial` a
# network with BN in some places only, `perceptron` what a course page says of weights and distributions,
# `batch_size` what a mini-batch is to BN and what else could stand in its place, and `asides` what the chapter says in
# passing.
#
# The numbers are those of the tables in `results/tables`, trained by `make textbook PRESET=full`: five networks an
# arm, each from another seed. Nothing is trained here; the notebook `lesson` trains. Below each figure stand its
# claims, each with its verdict and its criterion. A criterion that was laid down after a look says so. *Not
# reproduced* is as much a result as *reproduced*.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## The chapter's own numbers
#
# The chapter trains LeNet with BN for ten epochs at learning rate 1 and prints loss, accuracies and speed: once with a
# layer written out, once with the library's. Before looking: would you expect two implementations of one formula to
# differ by eight points of test accuracy, as the two printed numbers (0.878 and 0.796) do?
#
# How to read it: compare the two arms with each other first, and only then with what is printed. Look at the spread
# between seeds in the curve of test accuracy, too. A printed number is one seed of one epoch; what falls within the
# spread needs no explanation.

# %%
show("textbook_lenet")

# %% [markdown]
# ## What else was changed
#
# The chapter's network without BN uses average pooling, padding 2 and learning rate 0.9; the one with BN uses max
# pooling, no padding and learning rate 1.0. Which part of the gain is BN's? Eight networks, every combination: the
# effect of a change is the difference between the four networks with it and the four without. An effect whose interval
# contains zero has not been shown.
#
# For your own experiments: two networks that differ in three things tell nothing about any one of them.

# %%
show("textbook_confounds")

# %% [markdown]
# ## Which learning rates does it survive?
#
# An exercise of the chapter. First a grid of rates over four and a half decades: on the left end nothing is learned in
# the time given, on the right end nothing at all. Ask where each of the curves is highest, and how broad it is.

# %%
show("lenet_lr")

# %% [markdown]
# Then, for each seed, where exactly training ends, by bisection: each step halves (on a logarithmic scale) the stretch
# between a rate that trains and one that does not. Bisection finds *an* edge; the second claim asks if there are more.

# %%
show("lenet_region")

# %% [markdown]
# ## Faster, or only at its own learning rate?
#
# "BN makes training faster" can mean two things. Two networks can be compared at the same learning rate, or each at
# its best. The answers need not agree, and the second is the one that matters to somebody who may choose the rate.
# Mind the goal as well: an accuracy that neither network reaches in the epochs given compares nothing.

# %%
show("textbook_faster")

# %% [markdown]
# ## BN behind some layers
#
# Another exercise: is BN needed in every layer? LeNet has four places for it, so there are sixteen networks. Read the
# figure from both ends: what does the first BN give, wherever it is put, and what does the last one add?

# %%
show("textbook_subsets")

# %% [markdown]
# ## What can be left out?
#
# BN subtracts the mean of each channel, and so takes away whatever constant the layer before it has added: its bias
# does nothing. And in evaluation BN multiplies by one constant and adds another: it can be multiplied into the weights
# of the layer before it, and be gone. Both follow from the formula above; try to derive them before you look.
#
# What is left is rounding. In float32 a number has about seven digits, and a network of five layers loses some of them:
# compare the two panels. And compare the two modes: a bias that is dropped in training is missed in evaluation, where
# the running mean still includes it.

# %%
show("textbook_folding")

# %% [markdown]
# ## Why the test accuracy jumps
#
# Training goes smoothly, test accuracy does not. In evaluation BN uses running statistics: averages over the last
# mini-batches, which were computed with earlier weights. If that is the reason, statistics taken at the final weights
# should make the jumps go away, and a longer memory should make them worse. The figure tries both.

# %%
show("textbook_statistics")

# %% [markdown]
# ## Two modes
#
# In training, BN uses the mini-batch's statistics; in evaluation, running averages. So a network has two answers to
# one image, and `eval()` chooses. What does forgetting it cost, and does it matter in which order the images come? If
# you ever see an accuracy that depends on the batch size of the *test* set, this is what to look for.

# %%
show("textbook_modes")

# %% [markdown]
# ## Images from another source
#
# Trained on one kind of images, tested on another. BN's statistics belong to the first. They can be estimated anew on
# the second, without a single label: a change of contrast, being one factor and one shift for all pixels, is then
# undone entirely by the first layer's norm. Other changes are not of that form. Before looking: which of them will the
# new statistics not repair?

# %%
show("textbook_input_shift")
