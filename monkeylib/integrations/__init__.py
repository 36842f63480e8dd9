"""Monkey in evaluation harnesses: lmms-eval (`lmms_eval`) and VLMEvalKit (`vlmevalkit`).

Neither is a dependency: each module imports its harness, which has to be installed to use it.
"""

from typing import Any


def lmms_eval_models() -> Any:
    """Return where lmms-eval finds the model's class, for its entry point `lmms_eval.models`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("monkeylib", simple_class_path="monkeylib.integrations.lmms_eval.MonkeyForLmmsEval")
