"""One folder per claim: an experiment file, its README and its results."""
