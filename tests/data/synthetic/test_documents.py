"""Documents: the ink lies where their texts are."""

import numpy as np


def test_ink_of_a_receipt_lies_where_its_texts_are(all_samples):
    """A document without its texts is smooth paper: where pixels jump, a glyph, a rule or a bar must be."""
    for sample in all_samples:
        if sample.family == "document" and sample.detailed_caption.startswith("a receipt"):
            grey = np.asarray(sample.image.convert("L"), float)
            # Ink is far from the grey of the paper, darker or lighter.
            ink = np.abs(grey - np.median(grey)) > 90
            covered = np.zeros_like(ink)
            for text in sample.texts:
                x0, y0, x1, y1 = (round(edge) for edge in text.box)
                # Boxes end at the baseline; descenders and kerning reach a little beyond.
                covered[max(0, y0 - 2) : y1 + 6, max(0, x0 - 4) : x1 + 5] = True

            rule = int(sample.texts[0].box[3])  # below the title
            covered[rule : rule + sample.texts[0].height] = True
            assert (ink & covered).sum() > 0.97 * ink.sum(), sample.seed
