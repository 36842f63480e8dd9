"""The ablations, as named variants of one profile."""
