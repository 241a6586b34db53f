"""Clusters at run time: which endpoints there are, which may be tried, and which one is."""
