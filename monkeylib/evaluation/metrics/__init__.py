"""Metrics: one module for each family of scores, and all of them by name in `registry`."""
