"""Multi-level descriptions of images: experts annotate, a filter decides, a composer writes."""
