# %% [markdown]
# # What a textbook's chapter says in passing
#
# A chapter on batch normalization makes many small remarks, and a reader takes them along without asking. Each of them
# is an experiment of a few minutes. Before each figure: do you believe the sentence, and what would you have to see to
# give it up?
#
# The numbers are those of `results/tables`, trained by `make textbook PRESET=full`, five networks an arm and more. An
# experiment that was not run says so.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## "BN does for hidden layers what standardising does for the inputs"
#
# Then it should also do for the inputs what standardising does for them. Three networks without any other norm: on
# pixels in [0, 1], on pixels of mean 0 and standard deviation 1, and on pixels in [0, 1] that pass through BN first.

# %%
show("textbook_inputs")

# %% [markdown]
# ## "Epsilon keeps the division finite"
#
# A number that is there for safety should not matter as long as it is small. How small is small enough? Compare the
# largest of the three with the variances of a layer (the notebook `lesson` shows them).

# %%
show("textbook_epsilon")

# %% [markdown]
# ## "The variance of the mini-batch is an unbiased estimate"
#
# BN divides by the number of values $m$, and takes deviations from the mini-batch's own mean. Derive the expectation
# before you look: it is not the variance of all images. Then ask if it matters: compare the bias with how far the
# estimate of one mini-batch scatters.

# %%
show("textbook_variance")

# %% [markdown]
# ## "In convolutional layers, statistics are taken over all positions"
#
# They could be taken for each pixel by itself, as a dense layer does for each of its units. Which is better, and for
# what: for training, or for the accuracy on test images?

# %%
show("textbook_per_pixel")

# %% [markdown]
# ## "BN goes before the activation"
#
# It can also stand behind it. Think of a sigmoid, whose outputs lie around 0.5, and of what the next layer is given in
# either case.

# %%
show("textbook_before_after")

# %% [markdown]
# ## "Gamma and beta can undo the normalisation"
#
# They could: with $\gamma$ the standard deviation and $\beta$ the mean, the layer would be the identity. Do they? Each
# dot is a channel; on the dashed line what BN took away would be given back.

# %%
show("textbook_undo")

# %% [markdown]
# ## "With BN the choice of the learning rate matters less"
#
# An exercise asks for the curves of the error over learning rates. Flatness needs a definition: here it is the range of
# rates, in decades, whose training error is within two points of the best. It only counts once both networks fit.

# %%
show("textbook_error_by_rate")
