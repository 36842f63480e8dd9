"""Options of a generation, checked before anything is computed.

They are transformers' arguments of `generate`, so far as they make sense for answers, and `seed`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from transformers import GenerationConfig

from monkeylib.errors import nearest, shorten


@dataclass(frozen=True)
class _Kind:
    """What an option may be.

    Attributes:
        expected: in words.
        accepts: whether a value is that.
        convert: makes Python's number of it, which transformers wants to have.
    """

    expected: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _is_whole(value: Any, least: int) -> bool:
    # True is a whole number to Python.
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_id(value: Any) -> bool:
    return _is_whole(value, 0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(accepts, value))


def _convert_ids(value: Any) -> int | list[int]:
    return list(map(int, value)) if isinstance(value, list | tuple) else int(value)


_FLAG = _Kind("True or False", lambda value: isinstance(value, bool))
_COUNT = _Kind("a whole number from 1", lambda value: _is_whole(value, 1), int)
_COUNT_OR_NONE = _Kind("a whole number from 0", lambda value: _is_whole(value, 0), int)
_NUMBER = _Kind("a number", _is_number, float)
_POSITIVE = _Kind("a number above 0", lambda value: _is_number(value) and value > 0, float)
# At a smaller temperature scores become infinite, which some GPUs do not survive.
_LEAST_TEMPERATURE = 1e-6
_TEMPERATURE = _Kind(
    f"a number from {_LEAST_TEMPERATURE:f} (answers without sampling are greedy)",
    lambda value: _is_number(value) and value >= _LEAST_TEMPERATURE,
    float,
)
_SHARE = _Kind("a number above 0, up to 1", lambda value: _is_number(value) and 0 < value <= 1, float)
_PROBABILITY = _Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1, float)
_IDS = _Kind(
    "the id of a token, or a list of ids",
    lambda value: _is_id(value) or (_is_list(value, _is_id) and len(value) > 0),
    _convert_ids,
)
_ID_LIST = _Kind("a list of ids of tokens", lambda value: _is_list(value, _is_id), _convert_ids)
_TEXTS = _Kind(
    "a text that is not empty, or a list of such texts",
    lambda value: _is_text(value) or _is_list(value, _is_text),
)
_DECAY = _Kind(
    "a pair: the token at which the penalty begins, and its factor",
    lambda value: _is_list(value, _is_number) and len(value) == 2 and _is_whole(value[0], 0),
    lambda value: (int(value[0]), float(value[1])),
)
_FUNCTION = _Kind("a function", callable)
_FUNCTIONS = _Kind("a list of functions", lambda value: _is_list(value, callable))
# Transformers checks these.
_ANYTHING = _Kind("anything", lambda value: True)

# Options that have an effect with sampling alone, and with beams alone.
_SAMPLING = {
    "temperature": _TEMPERATURE,
    "top_k": _COUNT_OR_NONE,
    "top_p": _SHARE,
    "min_p": _PROBABILITY,
    "top_h": _SHARE,
    "typical_p": _SHARE,
    "epsilon_cutoff": _PROBABILITY,
    "eta_cutoff": _PROBABILITY,
}
_BEAMS = {"length_penalty": _NUMBER, "early_stopping": _ANYTHING}

_OPTIONS = {
    "seed": _COUNT_OR_NONE,
    "do_sample": _FLAG,
    "num_beams": _COUNT,
    "num_return_sequences": _COUNT,
    **_SAMPLING,
    **_BEAMS,
    # Which tokens may come
    "repetition_penalty": _POSITIVE,
    "no_repeat_ngram_size": _COUNT_OR_NONE,
    "bad_words_ids": _ANYTHING,
    "suppress_tokens": _ID_LIST,
    "begin_suppress_tokens": _ID_LIST,
    "sequence_bias": _ANYTHING,
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "logits_processor": _FUNCTIONS,
    "prefix_allowed_tokens_fn": _FUNCTION,
    # When an answer ends
    "min_new_tokens": _COUNT_OR_NONE,
    "stop_strings": _TEXTS,
    "eos_token_id": _IDS,
    "pad_token_id": _COUNT_OR_NONE,
    "forced_eos_token_id": _IDS,
    "exponential_decay_length_penalty": _DECAY,
    # What is returned, and how it is computed
    "output_scores": _FLAG,
    "output_logits": _FLAG,
    "return_dict_in_generate": _FLAG,
    "use_cache": _FLAG,
    "cache_implementation": _ANYTHING,
    "cache_config": _ANYTHING,
    "prefill_chunk_size": _COUNT,
    "compile_config": _ANYTHING,
    "disable_compile": _FLAG,
    "synced_gpus": _FLAG,
}

# Options of transformers that have no place here, and what to do instead.
_INSTEAD = {
    "generator": "samples are drawn from torch's own generator: pass seed=1, or another whole number",
    "max_length": "it counts the prompt: give max_new_tokens",
    "min_length": "it counts the prompt: give min_new_tokens",
    "max_time": "an answer ends at its end of text, at stop_strings or at max_new_tokens",
    "stopping_criteria": "an answer ends at its end of text, at stop_strings or at max_new_tokens",
    "streamer": "call `stream`, which yields the answer in parts",
}
_OTHERWISE = "call `monkey.model.generate(**monkey.prepare(...))`, which is transformers' own"
# Arguments of transformers' `generate` that are no fields of its configuration.
_ARGUMENTS = ("assistant_model", "custom_generate", "negative_prompt_ids", "generation_config", "tokenizer")


def check_options(max_new_tokens: int, options: Mapping[str, Any]) -> None:
    """Check the options of a generation.

    Args:
        max_new_tokens: maximum length of an answer.
        options: by name; None leaves one to the model's own settings.

    Raises:
        ValueError: an option that does not exist or has no effect, or a value that it cannot have.
    """
    _check_value("max_new_tokens", max_new_tokens, _COUNT)
    for name in options:
        _check_name(name)

    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        _check_value(name, value, _OPTIONS[name])

    has_sampling, beams = given.get("do_sample", False), given.get("num_beams", 1)
    for name, value in given.items():
        if name in _SAMPLING and not has_sampling:
            raise ValueError(
                f"{name} is {value!r}, which has an effect with sampling alone: pass do_sample=True, or "
                "leave it out for the greedy answer"
            )
        if name in _BEAMS and beams == 1:
            raise ValueError(
                f"{name} is {value!r}, which has an effect with beams alone: pass num_beams, or leave it out"
            )

    _check_number_of_answers(given.get("num_return_sequences", 1), beams, has_sampling)
    least = given.get("min_new_tokens", 0)
    if least > max_new_tokens:
        raise ValueError(f"min_new_tokens is {least}: expected at most max_new_tokens, {max_new_tokens}")


def convert_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked options without those that are None, their numbers as Python's."""
    return {name: _OPTIONS[name].convert(value) for name, value in options.items() if value is not None}


def _check_number_of_answers(count: int, beams: int, has_sampling: bool) -> None:
    if 1 < beams < count:
        raise ValueError(f"num_return_sequences is {count}: expected at most num_beams, which is {beams}")
    if count > 1 and beams == 1 and not has_sampling:
        raise ValueError(
            f"num_return_sequences is {count}: greedy answers are all the same, so pass do_sample=True, or "
            f"num_beams={count} or more"
        )


def _check_name(name: str) -> None:
    if name in _OPTIONS:
        return

    others = GenerationConfig().to_dict().keys() | _INSTEAD.keys() | set(_ARGUMENTS)
    if name in others:
        raise ValueError(f"answers take no {name}: {_INSTEAD.get(name, _OTHERWISE)}")

    options = ("max_new_tokens", *_OPTIONS)
    hint = nearest(name, options) or f"choose among {', '.join(options)}"
    raise ValueError(f"there is no option of generation called {name!r}: {hint}")


def _check_value(name: str, value: Any, kind: _Kind) -> None:
    if not kind.accepts(value):
        raise ValueError(f"{name} is {shorten(value)}: expected {kind.expected}")


def list_stop_strings(stop_strings: str | Sequence[str] | None) -> list[str]:
    """Return one stop string or several as a list."""
    return [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
