# %% [markdown]
# # The mini-batch, and what else could normalize
#
# With BN an image's output depends on the images beside it. The size of the mini-batch is then no longer a matter of
# speed and of the gradient's noise alone: it is part of the network. What follows from that, and do transforms that use
# something other than the mini-batch work equally well?

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Is there a best size?
#
# The chapter of Dive into Deep Learning says that 50 to 100 images are best, for then the noise of the statistics
# regularises. Batch renormalization and group normalization beside BN tell if an optimum is BN's own. Regularisation
# is read from the second panel: how far training is ahead of the test.
#
# One thing is not held equal here, and cannot be: at a given number of epochs, small mini-batches make more updates.

# %%
show("textbook_batch_size")

# %% [markdown]
# ## The control: noise of the statistics alone
#
# The same mini-batch of 256, with statistics of a part of it ("ghost batches"). Number and noise of the updates stay
# as they are; only the statistics become noisier. What this figure shows is the noise of the statistics; what the
# figure before shows beyond it is something else.

# %%
show("textbook_ghost_batch")

# %% [markdown]
# ## Very few images
#
# A mean over two images hardly deserves the name. Other norms were invented to do better here. All networks see equally
# many images, once. Remember that a network without any norm is an arm as well, and not always the one to beat.

# %%
show("textbook_tiny_batches")

# %% [markdown]
# And a mini-batch of one? Write down BN's formula for a dense layer and one image before you look. Then ask why a
# convolution is another matter.

# %%
show("textbook_batch_of_one")

# %% [markdown]
# ## Other transforms in BN's place
#
# Normalization by other statistics (of a layer, a group, a single image), a full covariance (whitening), the rank of a
# value in its mini-batch (the probability integral transform), BN without its learned scale and shift, or no
# normalization but dropout. Two of these test a sentence each: if the learned $\gamma$ and $\beta$ are what gives the
# network back its freedom, freezing them should cost something; and if BN is a regulariser, dropout should do its work.

# %%
show("textbook_normalisers")

# %% [markdown]
# Dropout had nothing to cure there. On 5,000 images the network overfits, if it is trained until it fits them: now the
# question whether BN can stand in for dropout has an answer. Mind how close to its bound the number lies.

# %%
show("textbook_dropout_overfits")
