"""Training data: records and mixtures, public datasets, and synthetic images with their ground truth."""
