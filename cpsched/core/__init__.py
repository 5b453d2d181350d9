"""What the families share: the clock, the run, the solver engine, search and model vocabulary."""
