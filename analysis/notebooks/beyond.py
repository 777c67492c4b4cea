# %% [markdown]
# # Beyond the paper
#
# The paper explains batch normalization (BN) by large learning rates, and large learning rates by bounded activations.
# Here that account meets theory and interventions that came later. What was not run yet says so.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Does BN itself make gradients explode?
#
# BN bounds activations. Yet each plain layer with BN and ReLU multiplies the squared gradient by pi / (pi - 1) on the
# way back, whatever the scale of the weights (Yang et al., 2019): a hundred layers make 15 powers of ten. With
# shortcuts nearly all of that growth is gone. So the paper's account, which is of residual networks, is incomplete:
# there the shortcut, and not the norm, carries the gradient.

# %%
show("perceptron_depths")

# %% [markdown]
# ## How far does an update turn the weights?
#
# The scale of weights before a BN does not matter: an update only turns them. In theory the angle settles, with weight
# decay, at a value that follows from the product of learning rate and weight decay (Wan et al., 2021).

# %%
show("effective_rate")

# %% [markdown]
# ## The edge of stability
#
# Gradient descent on all images sharpens the loss until the rate times the sharpness over two is about one (Cohen et
# al., 2021). If that is so with BN, too, a larger rate means a flatter end by stability alone.

# %%
show("edge_of_stability")
