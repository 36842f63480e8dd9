"""The notebook series.

`series` runs it, `headers` writes the top of every notebook, `figures` ties each figure to its data, `tables`
fills the tables of pages.
"""
