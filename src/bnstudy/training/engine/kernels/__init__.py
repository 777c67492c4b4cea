"""Kernels in C for what torch does slowly on a CPU; without a compiler torch computes the same."""
