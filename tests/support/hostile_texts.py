"""Strings that a model or an annotator may have written, to try every metric on."""

HOSTILE_TEXTS = [
    "", " ", "\n\t", "...", ".", "?!;,", "|", " | ", "()", "[1]", '""', "😀😀", "\x00", "a" * 10_000,
    "ﬁ", "٣", "(" * 10_000, "[" * 10_000, " (" * 5_000, "|" * 10_000, "9" * 10_000, "نعم", "<img>",
    "1e400", "-", "%", "\u202e", "nan", "1-1-1", "xx-xx-xx", "\ud800", "A", "yes",
]  # fmt: skip  # fmt: skip
