"""Widgets of a notebook, one module per subject, over the modules that compute what they show."""
