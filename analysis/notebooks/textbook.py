# %% [markdown]
# # What a textbook says of batch normalization
#
# Dive into Deep Learning adds BN to LeNet, trains it on Fashion-MNIST at a learning rate of 1, and compares.

# %%
from bnstudy.notebook import show

# %% [markdown]
# ## Which learning rates does LeNet survive?

# %%
show("lenet_lr")

# %%
show("textbook_faster")

# %% [markdown]
# ## The chapter's numbers, and what its comparison confounds

# %%
show("textbook_lenet")

# %%
show("textbook_confounds")

# %% [markdown]
# ## BN in some layers only

# %%
show("textbook_partial")
