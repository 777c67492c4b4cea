# %% [markdown]
# # bnstudy from Python
#
# The other notebooks draw findings. This one shows the interface behind them: published tables as DataFrames, a run
# trained in this process, and probes on a network that is not this project's. `docs/python.md` has every name.

# %%
import torch
from torch import nn

import bnstudy

# %% [markdown]
# ## Published tables
#
# Each row of a table has the columns of its run, too. How does the variance of activations change with the depth of
# the untrained network, with BN and without?

# %%
moments = bnstudy.table("init", "activation_moments", query="site == 'activation' and block_output")
moments.groupby(["norm", "depth"])["variance"].median().unstack("norm").iloc[::9]

# %%
bnstudy.claims().query("scale == 'init'").head(5)[["id", "says", "measured", "n", "verdict"]]

# %%
bnstudy.sweeps().head(5)[["sweep", "minutes_full", "published_runs", "published_tables"]]

# %% [markdown]
# ## A run of your own
#
# A configuration is composed as on the command line. A finished run is opened and not trained again. This one needs
# Fashion-MNIST, which `make data` downloads.

# %%
run: bnstudy.Run | None = None
config = bnstudy.configure(
    *["model=lenet", "data=fashion_mnist", "recipe=lenet", "norm=batch", "optim.lr=0.3", "train.steps=40"],
    *["data.batch_size=64", "data.num_train=256", "data.num_test=256", "runtime.download=false"],
)
try:
    run = bnstudy.fit(config, progress=False)
except ValueError as error:  # the images are not there
    print(error)

# %%
if run is not None:
    print(run.id, run.outcome, run.final)
    network, (images, labels) = run.network(), run.images("test")
    with torch.no_grad():
        print("test accuracy:", (network(images).argmax(1) == labels).float().mean().item())

# %%
if run is not None:
    print(run.probe("gradient_norms"))

# %% [markdown]
# ## Probes on any network
#
# A plain torch network, with in-place ReLUs and without a list of its layers, which are found by running it. Random
# images are enough to see that its untrained activations shrink with depth.

# %%
torch.manual_seed(0)
own = nn.Sequential()
for index in range(8):
    own.append(nn.Conv2d(16 if index else 3, 16, 3, padding=1))
    own.append(nn.ReLU(inplace=True))
own.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)])
images, labels = torch.randn(64, 3, 16, 16), torch.arange(64) % 10
bnstudy.layers(own, images)

# %%
found = bnstudy.probe(own, images, labels, "activation_moments", sites=["activation"])
found.groupby("depth")["variance"].mean()
