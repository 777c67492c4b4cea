"""Where images come from (`sources`, `archives`, `synthetic`) and how they reach the network (`loader`)."""
