"""The notebook series.

`series` runs it, `figures` ties each figure to its data, `tables` fills the tables of pages.
"""
