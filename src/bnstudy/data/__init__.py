"""Where images come from (`sources`, `archives`, `stand_in`) and how they reach the network (`pipeline`)."""
