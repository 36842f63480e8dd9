"""Drawings of the notebooks, one module per subject; `monkeylib.reproduce.figures` has the style and saves them."""
