# %% [markdown]
# # Batch normalization on a course page: a perceptron, and distributions that move
#
# A course page explains BN on a perceptron with one hidden layer (784 inputs, 256 units, 10 classes). It shows
# histograms of weights during training and says that with BN they are more *stable*; that units do not *saturate*;
# that gradients neither *vanish* nor *explode*; that one can be less careful about initialisation; and that all of
# this comes from less *internal covariate shift*. A perceptron is small enough to give each of these words a number.

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Weights, units, gradients
#
# Stable: how far the distribution of a layer's weights moves from where it began (Wasserstein distance: how far each
# weight has to be carried, on average, to turn the one histogram into the other). Saturated: the share of units whose
# slope is nearly zero. Vanishing and exploding: the norm of a layer's gradient as the scale of the initial weights
# changes, which is wrong on purpose here, by a factor of ten in both directions.
#
# With BN behind a layer the scale of its weights cancels: try to see from the formula $y = \gamma (x - \mu_B) /
# \sigma_B + \beta$ what becomes of $\mu_B$ and $\sigma_B$ when all weights are ten times as large, and why the network
# then computes the same. The classifier's own weights are scaled as well, and no BN follows them: which effects of the
# wrong scale does the figure still show for that reason?

# %%
show("textbook_mlp")

# %% [markdown]
# ## The linear region
#
# An input of variance 1 lies within 1.3 of 0, where a sigmoid is nearly straight, four times in five. BN begins there.
# Before looking: where does the network without BN begin? Does training leave it, with BN by gamma and beta?

# %%
show("textbook_linear_region")

# %% [markdown]
# ## Gradients over depth
#
# "BN keeps gradients from vanishing": then their size should not depend on the layer. Perceptrons of up to a hundred
# layers, before training. Before looking: what does each BN layer do to a gradient that passes back through it? (The
# notebook `beyond` has the theory.)

# %%
show("textbook_gradients_depth")

# %% [markdown]
# ## Why it works: internal covariate shift?
#
# The usual explanation: layers learn slowly because the distribution of their inputs keeps moving. If so, networks
# whose inputs move more should train worse, and noise put in after BN, which moves them at every step, should undo what
# BN gives. Santurkar et al. (2018) made that experiment; here it is on LeNet.
#
# Two different things are called by the one name. The shift of a layer's inputs, as activations: how much their
# distribution moves in an update. And the shift as the gradient feels it: how much a layer's gradient changes when the
# layers before it have made their step. BN may make the one small and the other large; read the panels one by one.
#
# Two quantities that go together over many runs need not be cause and effect: the learning rate moves both. The
# experiment with noise is the stronger evidence, as it changes the one and leaves the rest.

# %%
show("textbook_covariate_shift")

# %% [markdown]
# ## What to take from it
#
# Most of what the page says can be observed, once it is clear what to measure. That a thing comes together with BN,
# though, does not make it the reason for BN's success, and a histogram that looks calm is no reason either.
