"""bnstudy: what batch normalization does, measured (Bjorck et al., "Understanding Batch Normalization", 2018)."""

__version__ = "0.1.0"
