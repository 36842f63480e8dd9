"""Multi-level captions: experts annotate an image, a filter drops annotations, a composer writes the caption.

`pipeline` runs the `stages`, in this process or by `ray_engine`; `experts` and `composers` have a module for
each model; `filtering` decides on annotations, `checks` on captions.
"""
