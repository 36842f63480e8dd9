"""Sizes and thresholds of GRiT."""

from dataclasses import dataclass

BEGIN_ID = 101  # of the model for dense captions alone
JOINT_BEGIN_ID = 104  # of the joint model, which also names objects: each further task has an id of its own
STRIDES = (8, 16, 32, 64, 128)  # pixels per cell of the pyramid's levels, p3 to p7


@dataclass(frozen=True)
class GritConfig:
    """Sizes and thresholds; the defaults are those of the released GRiT-B.

    Attributes:
        short_side: pixels that the shorter side of an image is resized to.
        long_side: pixels that the longer side may have.
        width: channels of a patch in the ViT.
        heads: attention heads of the ViT.
        mlp_width: inner channels of the ViT's MLPs.
        layers: blocks of the ViT.
        global_layers: indices of the blocks that attend to the full image, not to windows.
        window: side of a window in patches.
        global_grid: side in patches that the relative positions of global blocks were trained for.
        channels: channels of the pyramid.
        heatmap_threshold: a cell proposes a box above this probability.
        level_proposals: best proposals of each level.
        proposal_iou: a proposal that overlaps a better one more than this is dropped.
        proposals: best proposals of an image.
        box_width: inner channels of the cascade's heads.
        score_threshold: a box is detected above this score. The released demo has 0.5, as has the released
            data generation; the model's own evaluation has 0.02.
        detection_iou: a detection that overlaps a better one more than this is dropped.
        detections: best detections of an image.
        text_width: channels of the text decoder.
        text_heads: its attention heads.
        text_mlp_width: inner channels of its MLPs.
        text_layers: its layers.
        text_positions: positions of its table.
        vocabulary: number of token ids.
        max_ids: the most ids of a caption, with the one that begins it.
        begin_id: id that begins a caption; it has to fit the checkpoint.
        end_id: id that ends a caption.
    """

    short_side: int = 800
    long_side: int = 1333

    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    layers: int = 12
    global_layers: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    global_grid: int = 64
    channels: int = 256

    heatmap_threshold: float = 1e-4
    level_proposals: int = 1000
    proposal_iou: float = 0.9
    proposals: int = 256

    box_width: int = 1024
    score_threshold: float = 0.5
    detection_iou: float = 0.5
    detections: int = 256

    text_width: int = 768
    text_heads: int = 12
    text_mlp_width: int = 3072
    text_layers: int = 6
    text_positions: int = 1024
    vocabulary: int = 30522
    max_ids: int = 40
    begin_id: int = BEGIN_ID
    end_id: int = 102
