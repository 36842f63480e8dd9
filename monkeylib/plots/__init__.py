"""Drawings of the notebooks, one module per subject, all in the style of `style`.

`monkeylib.reproduce.figures` saves them.
"""
