"""Benchmarks, predictions, metrics, and scores computed from the predictions."""
