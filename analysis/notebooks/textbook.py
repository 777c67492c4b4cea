<<<<<<< HEAD
# %% [markdown]
# # What a textbook says of batch normalization
#
# Courses teach batch normalization (BN) with a small network, one comparison, and a reason. Dive into Deep Learning
# adds it to LeNet, trains on Fashion-MNIST at a learning rate of 1 for ten epochs, and prints two accuracies. A
# tutorial puts it behind two of four layers. A course page says that it keeps the distribution of weights stable, and
# that it removes internal covariate shift. This notebook asks each of them: is that so, over five seeds, with the
# other things kept equal?
#
# Every cell below draws a figure from the tables in this repository and judges its claims by criteria that were
# written down before the measurement. Blue is with BN, orange without.

# %%
from bnstudy.notebook import show

# %% [markdown]
# ## The printed numbers
#
# The chapter writes its own BN layer, then uses the library's, and prints the last epoch of one run of each.
=======
# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Batch normalization, as courses teach it
#
# A mini-batch passes through a layer; each channel of its output is shifted and scaled to mean 0 and variance 1 over
# the mini-batch, then scaled by $\gamma$ and shifted by $\beta$, which are learned:
#
# $$y = \gamma\,\frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} + \beta .$$
#
# That is all. What is said about it is more: that it makes training faster, allows larger learning rates, forgives bad
# initialisation, stabilises distributions. Each section below takes one such sentence, says beforehand what would
# count as true, and looks. The numbers are those of the tables in `results/tables`, made by `make textbook
# PRESET=full`: five networks an arm, each from another seed. Nothing is trained here.

# %%
from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from bnstudy import figures, findings, frames

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "analysis" / "findings").is_dir())


def show(name: str) -> Figure | None:
    """What was claimed, by which criterion, and what came out; the figure, where the tables are there."""
    finding = findings.load(ROOT / "analysis" / "findings" / f"{name}.py")
    try:
        tables = {table: frames.load(ROOT / "results", finding.sweep, table, q) for table, q in finding.needs.items()}
    except frames.MissingTable as missing:
        print(f"{finding.title}: not run ({missing})")
        for claim in finding.claims:
            print(f"\n{claim.says}\n  criterion: {claim.criterion}")
        return None
    for claim, evidence in ((c, finding.evidence(tables)[c.id]) for c in finding.claims):
        print(f"{claim.says}\n  criterion: {claim.criterion}\n  measured: {evidence.measured} (n = {evidence.n})")
        print(f"  {evidence.verdict}\n")
    origin = frames.origin(tables.values())
    with figures.style(ROOT / "analysis" / "bnstudy.mplstyle"):
        told = f"{origin.num_runs} runs, {origin.data_label}"
        figure = figures.new(finding.size, finding.title, told, stand_in=origin.stand_in)
        finding.plot(figure, tables)
    return figure


# %% [markdown]
# ## 1. The chapter's own numbers
#
# Dive into Deep Learning trains LeNet with BN for ten epochs at learning rate 1 and prints loss, accuracies and speed:
# once with a layer written out, once with the library's. Before looking: would you expect two implementations of one
# formula to differ by eight points of test accuracy, as the two printed numbers (0.878 and 0.796) do?
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_lenet")

# %% [markdown]
<<<<<<< HEAD
# ## What the comparison confounds
#
# Between the chapter on LeNet and the one on BN more changes than BN: the pooling, the padding, the learning rate.
# Here all eight combinations of the first three are trained at the same rate. If the effect of BN were that of
# pooling, panel (c) would show it.
=======
# ## 2. What else was changed
#
# The chapter without BN uses average pooling, padding 2, learning rate 0.9; the one with BN max pooling, none, 1.0.
# Which part of the gain is BN's? Eight networks, every combination: an effect is the difference between the four that
# have a thing and the four that have not.
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_confounds")

# %% [markdown]
<<<<<<< HEAD
# ## Which learning rates does LeNet survive?
#
# A grid of rates, with BN and without.

# %%
show("lenet_lr")

# %% [markdown]
# And where exactly does it end? Between the last rate that trains and the first that does not, by bisection:

# %%
show("lenet_region")

# %% [markdown]
# ## Does BN train faster?
#
# At one rate, or only because it may use another?
=======
# ## 3. Faster, or only at its own learning rate?
#
# Two networks can be compared at the same learning rate, or each at its best. The answers need not agree.
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_faster")

# %% [markdown]
<<<<<<< HEAD
# ## BN behind some layers only
=======
# ## 4. BN behind some layers
#
# A tutorial puts BN behind two of its four layers. It also puts a ReLU on the classifier's outputs: think about what
# happens to a class whose output is below zero for every image, and what its gradient is then.
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_partial")

# %% [markdown]
<<<<<<< HEAD
# ## Training mode and evaluation mode
#
# A layer with BN is two functions. In training it normalizes by the mini-batch, in evaluation by running statistics.
# The commonest bug is to forget the switch; here is what it costs, and when it goes unnoticed.

# %%
show("textbook_modes")

# %% [markdown]
# ## Images from another source
#
# The running statistics belong to the training images. What if the camera changes?

# %%
show("textbook_input_shift")

# %% [markdown]
# ## Are weights more stable with BN?
#
# A perceptron, as on the course page: how far its weights drift, how many of its units saturate, and how large its
# gradients are.
=======
# ## 5. Weights, units, gradients
#
# A perceptron shows what the words *stable*, *saturated*, *vanishing* mean in numbers. The scale of the initial weights
# is wrong on purpose, by a factor of ten in both directions. With BN behind a layer its weights' scale cancels: try to
# see from the formula above why the gradient in the hidden layer then hardly depends on that factor.
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_mlp")

# %% [markdown]
<<<<<<< HEAD
# ## Internal covariate shift
#
# The explanation that the inventors of BN gave, that courses repeat, and that the paper disputes: without BN the
# inputs of a layer change their distribution with every update of the layers before it. So measure that change. And
# put noise behind BN that moves the inputs anew in every step, as Santurkar and others did: if the explanation is
# right, training should suffer.
=======
# ## 6. Two modes
#
# In training, BN uses the mini-batch's statistics; in evaluation, running averages. So a network has two answers to
# one image, and `eval()` chooses. What does forgetting it cost, and does it matter in which order the images come?

# %%
show("textbook_modes")

# %% [markdown]
# ## 7. Images from another source
#
# Trained on one kind of images, tested on another. BN's statistics belong to the first. They can be estimated anew on
# the second, without a single label: a change of contrast, being one factor and one shift for all pixels, is then
# undone entirely by the first layer's norm.

# %%
show("textbook_input_shift")

# %% [markdown]
# ## 8. Why it works: internal covariate shift?
#
# The usual explanation: layers learn slowly because the distribution of their inputs keeps moving. If so, networks
# whose inputs move more should train worse, and noise put in after BN, which moves them at every step, should undo what
# BN gives. Santurkar et al. (2018) made that experiment; here it is on LeNet.
>>>>>>> e968d29 (Add a notebook that reads the textbook's study from top to bottom)

# %%
show("textbook_covariate_shift")
