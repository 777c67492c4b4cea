"""Everything on the disk: runs, tables, checkpoints, weights, locks, and where they lie."""
