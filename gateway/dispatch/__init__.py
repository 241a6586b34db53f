"""Sending a request to an endpoint, and judging what came of it."""
