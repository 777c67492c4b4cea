# %% [markdown]
# # Random matrices and initialisation (section 4)
#
# Why does the untrained network explode at all? Its weights are random matrices, drawn so that each layer keeps the
# variance of what passes. The paper points to a theorem on products of Gaussian matrices: the more factors, the more
# unequal the singular values, though the variance is kept on average.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Products of random matrices
#
# Singular values of products of 1, 3 and 5 matrices of 1000 x 1000, and the law of Theorem 1.

# %%
show("fig8")

# %% [markdown]
# ## The network's own Jacobians
#
# The paper stops at random matrices. But the Jacobian of the untrained ResNet-110 itself, from one image to the
# features, can be computed; with BN the batch statistics are held constant.

# %%
show("jacobians")

# %% [markdown]
# Is each block to blame, or their number? Here are all 54 blocks one by one. Their Jacobians are too large to write
# down; their singular values are estimated from products with vectors.

# %%
show("jacobian_blocks")

# %% [markdown]
# And may the statistics be held constant? What their own derivatives add should fade as the mini-batch grows.

# %%
show("jacobian_coupling")

# %% [markdown]
# ## Four initialisers
#
# If the initialisation is the cause, another one should change the explosion, and with BN it should not matter.

# %%
show("init_schemes")

# %%
show("init_training")

# %% [markdown]
# ## Where does BN have to sit?
#
# BN before the pooling only, after the classifier only, or in one stage only: which effects on the untrained network
# does each have? And what does it gain in training?

# %%
show("placement_init")

# %%
show("placement_reduced")

# %%
show("placement")

# %% [markdown]
# ## Which claims are robust?
#
# Each claim on the untrained network, judged again by its own criterion with another shortcut, biases that are not
# zero, other preprocessing, another of Xavier's laws; and claims on training with a warm-up or more weight decay.

# %%
show("sensitivity")

# %%
show("sensitivity_training")
