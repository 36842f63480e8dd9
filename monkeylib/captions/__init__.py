"""Multi-level descriptions of pictures: experts annotate, a filter decides, a composer writes."""
