# %% [markdown]
# # A lesson: train LeNet, change one thing, look inside
#
# Batch normalization shifts and scales each channel of a layer's output to mean 0 and variance 1 over the mini-batch,
# then scales it by a learned $\gamma$ and shifts it by a learned $\beta$:
#
# $$y = \gamma\,\frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}} + \beta .$$
#
# What does that change? In this notebook you train small networks yourself, change the learning rate and the norm, and
# watch the activations of every layer. Each network takes some seconds on two CPU cores, all of them a few minutes.
#
# Predict each figure before you run its cell. A wrong prediction teaches more than a right one.

# %%
import importlib.util
import subprocess
import sys

import matplotlib.pyplot as plt
import pandas as pd

ADDRESS = ""  # in Colab: the address of the repository
if importlib.util.find_spec("bnstudy") is None:
    subprocess.run(["git", "clone", "--depth", "1", ADDRESS, "bnstudy"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "./bnstudy"], check=True)
    sys.path.insert(0, "bnstudy/src")

import bnstudy  # noqa: E402

NETWORK = ["model=lenet", "model.activation=relu", "recipe=lenet"]
IMAGES = ["data=fashion_mnist", "data.num_train=10000", "data.num_test=2000", "data.batch_size=64"]
LOOK = ["probes=none", "probes.activation_moments={every_epochs: 1}", "probes.saturation={every_epochs: 1}"]
COLOURS = {"batch": "#1F5C99", "none": "#D9661F", "group": "#117733", "layer": "#999933"}


def train(norm: str, lr: float, *more: str) -> bnstudy.Run:
    """Train LeNet with ReLUs for two epochs, or open the run if it has been trained before."""
    change = [f"norm={norm}", f"optim.lr={lr}", "train.epochs=2", "runtime.synthetic=true", "runtime.threads=1", *more]
    return bnstudy.fit(bnstudy.configure(*NETWORK, *IMAGES, *LOOK, *change), progress=False)


def accuracy(run: bnstudy.Run) -> float:
    """Final test accuracy in percent; a run that diverged counts as a guess among ten classes."""
    return 100 * (run.final["test_accuracy"] or 0.1)


first = train("none", 0.1)
print(first.id, first.final)
print("the images:", first.manifest["data"]["source"], first.manifest["data"]["title"])

# %% [markdown]
# A run has a name that says what was trained, and tables. If the last line says *synthetic*, Fashion-MNIST could
# neither be found nor downloaded: the images are synthetic, and the figures below say nothing about real ones.
#
# ## The learning rate
#
# Five rates, with BN and without, all else equal. **Predict:** which networks learn nothing in two epochs? Where is
# each curve highest?

# %%
RATES = [0.03, 0.1, 0.3, 1.0, 3.0]
runs = {(norm, lr): train(norm, lr) for norm in ("batch", "none") for lr in RATES}

fig, ax = plt.subplots(figsize=(6, 3.5))
for norm, label in (("batch", "with BN"), ("none", "without BN")):
    ax.plot(RATES, [accuracy(runs[norm, lr]) for lr in RATES], "o-", color=COLOURS[norm], label=label)
ax.axhline(10, color="grey", lw=0.8, ls=":")
ax.set(xscale="log", xlabel="learning rate", ylabel="test accuracy (%)", ylim=(0, 100))
ax.legend()
plt.show()

# %% [markdown]
# The dotted line is a guess among ten classes. Do not compare the peaks alone: in so few updates a small rate can win
# in either arm. BN's claimed advantage is breadth: count the rates at which each arm learns at all. One network per
# point is no measurement: another seed gives another curve. The study behind this notebook trains five of each, and
# draws the interval of their mean (notebook `chapter`).
#
# ## Inside: activations, layer by layer
#
# The probe `activation_moments` looked at the untrained network and after every epoch, on one fixed mini-batch. It
# left no trace: training ended in the same bits as without it. Here is the standard deviation of what each layer
# passes on. **Predict:** does the signal of an untrained network without BN grow or shrink from layer to layer?


# %%
def deviation(run: bnstudy.Run) -> pd.DataFrame:
    """Standard deviation of each layer's activations, mean over its channels (rows: layers, columns: steps)."""
    table = run.table("activation_moments").query("site == 'activation'")
    return table.assign(std=table["variance"] ** 0.5).groupby(["depth", "step"])["std"].mean().unstack("step")


fig, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True)
for ax, norm in zip(axes, ("batch", "none"), strict=True):
    spread = deviation(runs[norm, 0.1])
    for index, step in enumerate(spread):
        shade = 0.35 + 0.65 * index / (spread.shape[1] - 1)
        ax.plot(spread.index, spread[step], "o-", color=COLOURS[norm], alpha=shade, label=f"after {step} updates")
    ax.set(yscale="log", xlabel="layer", title="with BN" if norm == "batch" else "without BN", xticks=spread.index)
    ax.legend(fontsize="small")
axes[0].set_ylabel("standard deviation")
plt.show()

# %% [markdown]
# Without BN the untrained network (faint) passes on less and less: to its classifier all images look alike. Training
# has to restore the signal first. With BN every layer has about the same spread from the start, whatever the weights
# before it are. In a deeper network, with other initial weights, the signal can explode instead: that is Figure 5 of
# the paper (notebook `divergence`).
#
# ## The learning rate, from inside
#
# The same picture at the end of training, for each learning rate. **Predict:** what is left of the signal where the
# network without BN did not learn?

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True)
for ax, norm in zip(axes, ("batch", "none"), strict=True):
    for index, lr in enumerate(RATES):
        spread = deviation(runs[norm, lr])
        shade = 0.3 + 0.7 * index / (len(RATES) - 1)
        ax.plot(spread.index, spread.iloc[:, -1], "o-", color=COLOURS[norm], alpha=shade, label=f"rate {lr:g}")
    ax.set(xlabel="layer", title="with BN" if norm == "batch" else "without BN", xticks=spread.index)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.legend(fontsize="small")
axes[0].set_ylabel("standard deviation at the end")
plt.show()

# %% [markdown]
# A ReLU that is 0 on every image passes no gradient on, and never comes back: one step that is too long can switch off
# a whole layer. BN moves such a layer back into the range where some images are above 0.
#
# ## Another norm
#
# Group and layer normalization look at one image at a time, not at the mini-batch. Is it the mini-batch that helps, or
# the normalizing? **Predict** first.

# %%
others = {norm: train(norm, 1.0) for norm in ("batch", "group", "layer", "none")}
rows = {
    norm: {
        "test accuracy (%)": accuracy(run),
        "std at layer 4, untrained": deviation(run).loc[4].iloc[0],
        "units that are always 0 (%)": 100 * run.table("saturation").query("step == step.max()")["dead"].mean(),
    }
    for norm, run in others.items()
}
pd.DataFrame(rows).T.round(2)

# %% [markdown]
# At this rate the network without any norm fails or nearly so. A norm that looks at one image alone and still learns
# says that it is the normalizing that helps; one that fails where BN does not says that the mini-batch matters.
# Differences of a few points are no finding: the last cell shows how much another seed changes one number.
#
# ## Your turn
#
# Change one thing at a time, and predict first:
#
# 1. The mini-batch: `train("batch", 0.1, "data.batch_size=4", "data.num_train=2000")`. What are a mean and a variance
#    of four images worth? Compare with `group`.
# 2. The activation: `train("none", 0.3, "model.activation=sigmoid")`, and the same with BN.
# 3. The initial weights: `train("none", 0.1, "init_scale=4")`, and the same with BN.
# 4. One layer only: `train("batch", 1.0, "norm.where=norm4")`. Is one norm enough?
# 5. The seed: `train("none", 0.3, "seed=1")`. Which of your conclusions survive?
#
# A mistyped value is refused with the valid ones. To look at something new, write a probe: one small file
# (`README.md`).

# %%
again = train("none", 0.3, "seed=1")
print(f"seed 0: {accuracy(runs['none', 0.3]):.1f} %, seed 1: {accuracy(again):.1f} %")
