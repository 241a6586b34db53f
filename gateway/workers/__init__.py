"""Several processes on one port that are, seen from outside, one gateway."""
