# %% [markdown]
# # Divergence without batch normalization (section 3)
#
# Why can a deep network without BN not be trained at a large learning rate? The paper looks at single updates. It
# walks along the gradient of a mini-batch and asks how the loss changes with the length of the step; then it takes an
# update that diverges and asks where in the network the numbers explode.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## How far can one step?
#
# The relative loss is the loss after the step divided by the loss before it: below 1 the step helps. Without BN the
# curve turns upwards by many powers of ten (mind the axes); with BN it does not leave the panel. Compare mini-batch 1
# with mini-batch 7: without BN only the smallest steps help the untrained network. After a few updates at 0.0001 far
# larger ones do, which is not what the paper shows.

# %%
show("fig3")

# %% [markdown]
# The paper does not say how its images are scaled. In [0, 1] gradients without BN are half as large: does that explain
# the difference?

# %%
show("fig3_pixels")

# %% [markdown]
# ## Where does an update explode?
#
# In an update that diverges, the first layers hardly move, and the last ones by many powers of ten: each layer
# multiplies what it gets by weights that have grown a little.

# %%
show("fig4")

# %% [markdown]
# ## Already before the first update
#
# Means and standard deviations of the activations in the untrained network. Every residual block adds to what it
# receives, so both grow with depth. BN sets the scale of what each block adds, so that the sum grows slowly; and at
# the first block of a stage, where the shortcut is normalized as well, it starts anew.

# %%
show("fig5")
