"""Many runs: which to train, in which process, and how far they are."""
