"""GRIT in a separate Python environment: answers requests on standard input, a line of JSON each.

This file is run by the interpreter of an environment with detectron2, in which this library is not installed.
It therefore imports nothing of it, and works from Python 3.8 on. `experts.grit` starts it.

The first line that it writes is {"ready": true} or {"error": ...}. A request is {"images": [path, ...]}
and its response {"images": [...]} with {"objects": [{"caption", "box", "score"}, ...]} or {"error": ...} for
each image; boxes are x0, y0, x1, y1 in its pixels. The process ends when its standard input does.
"""

import argparse
import importlib
import json
import os
import sys
from typing import Any

CONFIG = "configs/GRiT_B_DenseCap_ObjectDet.yaml"
CENTERNET = "third_party/CenterNet2/projects/CenterNet2"


def build(checkout: str, weights: str, confidence: float, device: str) -> Any:
    """Return detectron2's predictor, configured for dense captions like GRIT's demo and the released code."""
    # GRIT finds its configuration and CenterNet2 relative to its checkout.
    os.chdir(checkout)
    sys.path[:0] = [checkout, os.path.join(checkout, CENTERNET)]

    config = importlib.import_module("detectron2.config").get_cfg()
    importlib.import_module("centernet.config").add_centernet_config(config)
    importlib.import_module("grit.config").add_grit_config(config)
    config.merge_from_file(CONFIG)

    config.MODEL.WEIGHTS = weights
    config.MODEL.DEVICE = device
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = confidence
    config.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = confidence

    # Captions by greedy search.
    config.MODEL.TEST_TASK = "DenseCap"
    config.MODEL.BEAM_SIZE = 1
    config.MODEL.ROI_HEADS.SOFT_NMS_ENABLED = False
    config.USE_ACT_CHECKPOINT = False
    config.freeze()

    importlib.import_module("grit.predictor")  # registers its architecture
    return importlib.import_module("detectron2.engine.defaults").DefaultPredictor(config)


def detect(predictor: Any, path: str) -> "dict[str, Any]":
    """Return the objects of an image, or the error in their place."""
    try:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # detectron2 takes BGR

        instances = predictor(np.ascontiguousarray(pixels))["instances"].to("cpu")
        captions = instances.pred_object_descriptions.data
        boxes = instances.pred_boxes.tensor.tolist()
        scores = instances.scores.tolist()
        columns = zip(captions, boxes, scores)  # noqa: B905 - Python 3.8 has no strict
        return {
            "objects": [{"caption": caption, "box": box, "score": score} for caption, box, score in columns]
        }
    except Exception as error:  # the other images go on
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("checkout", "weights", "device"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--confidence", type=float, required=True)
    arguments = parser.parse_args()

    # What libraries print goes to standard error, so that standard output has nothing but responses.
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def respond(response: "dict[str, Any]") -> None:
        responses.write(json.dumps(response) + "\n")
        responses.flush()

    try:
        predictor = build(arguments.checkout, arguments.weights, arguments.confidence, arguments.device)
    except Exception as error:
        respond({"error": f"{type(error).__name__}: {error}"})
        raise

    respond({"ready": True})

    for line in sys.stdin:
        respond({"images": [detect(predictor, path) for path in json.loads(line)["images"]]})


if __name__ == "__main__":
    main()
