"""Drawings of the notebooks, one module per subject; `monkeylib.figures` has the style and saves them."""
