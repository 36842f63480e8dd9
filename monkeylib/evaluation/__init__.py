"""Benchmarks, metrics, the runner that writes predictions, and the scores read from them."""
