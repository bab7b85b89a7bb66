"""Generated training scenes (dead leaves): renderer, sample set and cache."""
