"""Sums that merge, and tests from them that may be looked at all the time."""
