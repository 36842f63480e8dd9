"""Where examples come from: made images with their ground truth, and assets fetched with checksums."""
