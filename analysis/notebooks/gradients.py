# %% [markdown]
# # Gradients without batch normalization (sections 3.1 and 3.2)
#
# In the untrained network without BN the gradients are large, a few of their entries are much larger than the others,
# and they hardly depend on the images. This notebook follows the paper's chain of reasons, from the gradients of the
# weights back to the classifier.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Large and heavy-tailed
#
# Histograms of the entries of one layer's gradient (layer 55 of 110). Kurtosis is 3 for a normal law.

# %%
show("fig2")

# %% [markdown]
# Heavy-tailed is not yet a power law. The tails themselves, on logarithmic axes, with four laws fitted to the largest
# entries and compared by their likelihoods:

# %%
show("fig2_tails")

# %% [markdown]
# ## The classifier pushes towards one class
#
# The gradient with respect to the logits, image by image. Without BN nearly all images are taken for the same class,
# so that nearly all of the gradient says: less of this one.

# %%
show("fig6")

# %% [markdown]
# ## So the summands agree
#
# A convolution's gradient is a sum over images and places. Where the summands have one sign, the sum is as large as
# the sum of their absolute values; where they do not, they cancel, and it is much smaller. The ratio of the two:

# %%
show("table1")

# %%
show("table1_parameters")

# %% [markdown]
# ## And so do the gradients of different mini-batches
#
# The cosine between gradients of disjoint mini-batches. If it is 1, the gradient says nothing about the images.

# %%
show("gradient_correlation")

# %%
show("correlation_training")

# %% [markdown]
# ## The channels with a large mean dominate
#
# The gradient between an input channel and an output channel is nearly the product of a number for the one and a
# number for the other: a matrix of rank one.

# %%
show("fig7")
