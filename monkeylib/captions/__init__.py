"""Multi-level captions: experts annotate an image, a filter drops annotations, a composer writes the caption.

`pipeline` has an engine run the `stages`: that of this process (`engines`), or `ray_engine`. `experts` and
`composers` have a module for each model; `filtering` decides on annotations, `checks` on captions.
"""
