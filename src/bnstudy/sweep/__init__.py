"""Many runs: which are to be trained, by whom, how far they are."""
