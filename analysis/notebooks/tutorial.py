# %% [markdown]
# # Batch normalization in a tutorial: behind two of four layers
#
# A widespread tutorial trains two convolutions and two dense layers, and puts BN behind the second convolution and the
# first dense layer, not behind the first convolution. A reader concludes that the network then trains faster and
# better. Three questions: is it so, over several seeds? Which of the two BN layers does it? And what does another line
# of the code do, the ReLU on the classifier's outputs?

# %%
from bnstudy.analysis.notebook import show

# %% [markdown]
# ## Both, either, none
#
# Four networks, alike but for BN, at one learning rate. "Faster" is what is seen early, "better" what is seen at the
# end: look at both ends of the curves. Where one of the two BN layers gives nearly what both give, the other is not
# useless: it may be that either is enough.
#
# As to the ReLU: think about what happens to a class whose output is below zero for every image, and what its gradient
# is then. Such a class can never come back. Whether this happens *here* is another question, and one that a single run
# cannot answer; every network was trained with the ReLU and without it.

# %%
show("textbook_partial")

# %% [markdown]
# ## What to take from it
#
# The answers found here hold for this network. The notebook `chapter` asks the same of LeNet, for all subsets of its
# four places: compare the two answers. What carries over is the way of asking: change one thing, over several seeds,
# and write down beforehand what would count as a difference.
