"""Generation: from prepared prompts to answers, greedily, by sampling, or with beams.

All answers of the library come from `generate` and `streaming.stream`: those of `inference`, of the
evaluation, and of the harnesses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from monkeylib.model.answers import Answer, EndReason
from monkeylib.model.context import check_context, count_visual_tokens
from monkeylib.model.generation_options import check_options, convert_options, list_stop_strings
from monkeylib.model.kv_cache import empty_cache
from monkeylib.model.monkey import MonkeyForConditionalGeneration
from monkeylib.model.seeded_sampling import draw_from_seed


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    max_new_tokens: int,
    *,
    end_ids: int | Sequence[int] | None = None,
    **options: Any,
) -> list[Answer]:
    """Complete a batch of prompts, greedily unless the options say otherwise.

    Where it searches with beams, it holds the logits of all steps: 4 bytes for each beam, token and entry of
    the vocabulary.

    Args:
        model: a Monkey, or another model of transformers that generates.
        tokenizer: decodes the answers; a processor will do.
        inputs: of the model, with `input_ids` and `attention_mask` `[B, T]`, padded on the left.
        max_new_tokens: maximum length of an answer.
        end_ids: the tokens that end a text; by default the tokenizer's end of text.
        options: as in `monkey.Monkey.answer`.

    Returns:
        One answer for each prompt; with `num_return_sequences`, the others are its `samples`.

    Raises:
        ValueError: a prompt that does not fit into the model's context, or as `check_options`.
    """
    check_options(max_new_tokens, options)
    return decode(model, tokenizer, inputs, max_new_tokens, end_ids, options)


def decode(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    max_new_tokens: int,
    end_ids: int | Sequence[int] | None,
    options: Mapping[str, Any],
    streamer: TextIteratorStreamer | None = None,
    interruption: Event | None = None,
) -> list[Answer]:
    """Complete a batch of prompts with checked options.

    Args:
        model, tokenizer, inputs, max_new_tokens, end_ids, options: as in `generate`.
        streamer: receives the tokens of a single answer.
        interruption: once it is set, generation ends after the token at hand.
    """
    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    visual_tokens = count_visual_tokens(model, inputs["input_ids"])
    check_context(model, prompt_tokens, visual_tokens, max_new_tokens)

    # A processor of a chat model has its tokenizer inside.
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    settings = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id if end_ids is None else end_ids,
        **convert_options(options),
    }
    seed = settings.pop("seed", None)
    stop_strings = list_stop_strings(settings.pop("stop_strings", None))

    if not getattr(model.config, "is_encoder_decoder", False):
        settings |= _penalise_text_alone(model, settings, inputs["attention_mask"])

    stops = _StopStrings(tokenizer, stop_strings, _prompt_length(model, inputs))
    # Without a seed, samples are drawn from torch's own random numbers.
    with contextlib.nullcontext([]) if seed is None else draw_from_seed(seed, settings) as draws:
        if _setting(model, settings, "num_beams") > 1:
            sequences = _search_beams(model, inputs, settings, stops, draws)
        else:
            sequences = _extend(model, inputs, settings, stops, draws, streamer, interruption)

    count = _setting(model, settings, "num_return_sequences")
    answers = []
    for row, length in enumerate(sequences.lengths):
        ids = sequences.ids[row, :length].tolist()
        text, ended_by = _read_text(tokenizer, ids, settings["eos_token_id"], stop_strings)
        answers.append(
            Answer(
                text=text,
                ended_by=ended_by,
                token_ids=tuple(ids),
                token_log_probabilities=tuple(sequences.log_probabilities[row, :length].tolist()),
                prompt_tokens=prompt_tokens[row // count],
                visual_tokens=visual_tokens[row // count],
                scores=sequences.select(sequences.scores, row) if options.get("output_scores") else None,
                logits=sequences.select(sequences.logits, row) if options.get("output_logits") else None,
            )
        )

    # The answers to one question stand together.
    return [_join_samples(answers[start : start + count]) for start in range(0, len(answers), count)]


def _setting(model: Any, settings: Mapping[str, Any], name: str) -> int:
    """Return a number among the settings, else what the model's own configuration says, else 1."""
    return settings.get(name) or getattr(model.generation_config, name, None) or 1


@dataclass(frozen=True)
class _Sequences:
    """What a decoder has generated: `S` sequences of up to `T` tokens, those of one prompt side by side.

    Attributes:
        ids: generated tokens `[S, T]` without the prompts, padded behind the end of each sequence.
        lengths: number of tokens of each, its end of text included.
        log_probabilities: of the tokens, `[S, T]`.
        rows: the row of each token in the tensors of its step, `[S, T]`.
        scores, logits: for each step `[rows, vocabulary]`; empty unless requested.
    """

    ids: Tensor
    lengths: list[int]
    log_probabilities: Tensor
    rows: Tensor
    scores: Sequence[Tensor] = ()
    logits: Sequence[Tensor] = ()

    def select(self, steps: Sequence[Tensor], number: int) -> Tensor:
        """Return the rows of one sequence from the tensors of all steps: `[tokens, vocabulary]`."""
        rows = self.rows[number, : self.lengths[number]].tolist()
        return torch.stack([steps[step][row] for step, row in enumerate(rows)])


def _extend(
    model: Any,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    stops: _StopStrings,
    draws: Sequence[StoppingCriteria],
    streamer: TextIteratorStreamer | None,
    interruption: Event | None,
) -> _Sequences:
    """Extend each prompt token by token, greedily or by sampling."""
    returns_steps = bool(settings.get("output_scores") or settings.get("output_logits"))
    recorder = _TokenLogProbabilities()
    criteria: list[StoppingCriteria] = [*draws, recorder, stops]
    if interruption is not None:
        criteria.append(_Interruption(interruption))

    with recorder.attached(model):
        output = model.generate(
            **_with_cache(model, inputs, settings),
            **{**settings, "return_dict_in_generate": returns_steps},
            stopping_criteria=StoppingCriteriaList(criteria),
            streamer=streamer,
        )

    # Prompts are padded on the left, so every answer begins at the same position.
    ids = (output.sequences if returns_steps else output)[:, _prompt_length(model, inputs) :]
    ends = _as_ids(settings["eos_token_id"])
    return _Sequences(
        ids=ids,
        lengths=[
            min(_length(row, ends), stops.lengths.get(number, len(row)))
            for number, row in enumerate(ids.tolist())
        ],
        log_probabilities=recorder.log_probabilities(ids),
        rows=torch.arange(len(ids))[:, None].expand(ids.shape),
        scores=(output.scores or ()) if returns_steps else (),
        logits=(output.logits or ()) if returns_steps else (),
    )


def _search_beams(
    model: Any,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
    stops: _StopStrings,
    draws: Sequence[StoppingCriteria],
) -> _Sequences:
    """Search the most probable answers with beams."""
    output = model.generate(
        **inputs,
        **{**settings, "return_dict_in_generate": True, "output_logits": True},
        stopping_criteria=StoppingCriteriaList([*draws, stops]),
    )

    ids = output.sequences[:, _prompt_length(model, inputs) :]
    rows = output.beam_indices[:, : ids.shape[1]].to(ids.device)
    return _Sequences(
        ids=ids,
        # There is no beam behind the end of a sequence.
        lengths=(rows >= 0).sum(dim=1).tolist(),
        log_probabilities=_beam_log_probabilities(output.logits, rows, ids),
        rows=rows,
        scores=output.scores or (),
        logits=output.logits,
    )


def _with_cache(model: Any, inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the inputs with an empty cache with room, where neither the settings nor the model's own
    configuration request something else.

    Other models than ours get the cache that transformers chooses for them.
    """
    is_requested = "past_key_values" in inputs or any(
        settings.get(name) is not None for name in ("cache_implementation", "past_key_values", "use_cache")
    )
    is_requested |= getattr(model.generation_config, "cache_implementation", None) is not None
    if is_requested or not isinstance(model, MonkeyForConditionalGeneration):
        return inputs
    return {**inputs, "past_key_values": empty_cache(model)}


def _prompt_length(model: Any, inputs: Mapping[str, Any]) -> int:
    """Return the number of tokens before an answer: a decoder beside an encoder has a token to start with."""
    return 1 if getattr(model.config, "is_encoder_decoder", False) else inputs["input_ids"].shape[1]


def _join_samples(samples: list[Answer]) -> Answer:
    """Return the first of the answers to a question, with all of them if there are several."""
    if len(samples) == 1:
        return samples[0]
    return dataclasses.replace(samples[0], samples=tuple(samples))


# --- penalties for what the text holds already


def _penalise_text_alone(model: Any, settings: Mapping[str, Any], attention_mask: Tensor) -> dict[str, Any]:
    """Return settings by which tokens are penalised for their text alone, not for the padding around it.

    Args:
        model: its own configuration counts where the settings leave a penalty open.
        settings: of `generate`.
        attention_mask: of the prompts, `[B, T]`.
    """
    penalty, ngram_size = (
        getattr(model.generation_config, name, None) if settings.get(name) is None else settings[name]
        for name in ("repetition_penalty", "no_repeat_ngram_size")
    )
    processors: list[LogitsProcessor] = []
    if penalty not in (None, 1):
        processors.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
    if ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(ngram_size))
    if not processors:
        return {}

    return {
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "logits_processor": [
            *(_OfTextAlone(processor, attention_mask) for processor in processors),
            *settings.get("logits_processor", ()),
        ],
    }


class _OfTextAlone(LogitsProcessor):
    """Has a processor of scores see each text as if it were alone in its batch.

    Padding stands in front of a prompt, or in the middle, between an image that all questions share and the
    question; its id is that of a token which may come in a text.
    """

    def __init__(self, processor: LogitsProcessor, attention_mask: Tensor) -> None:
        """Keep where the prompts are padded.

        Args:
            processor: sees the texts.
            attention_mask: of the prompts, `[B, T]`.
        """
        self.processor = processor
        # Where each position of a prompt comes from when its padding stands in front: [B, T].
        self.sources = attention_mask.bool().int().argsort(dim=1, stable=True)
        self.is_padding = ~attention_mask.bool().gather(1, self.sources)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores `[S, vocabulary]` of `S` sequences `[S, T]`, those of one prompt side by side."""
        copies = len(input_ids) // len(self.sources)
        sources = self.sources.repeat_interleave(copies, dim=0).to(input_ids.device)
        is_padding = self.is_padding.repeat_interleave(copies, dim=0).to(input_ids.device)

        # Padding gets the id of a token that the vocabulary has not, with a score of its own.
        length, vocabulary = sources.shape[1], scores.shape[1]
        prompts = input_ids[:, :length].gather(1, sources).masked_fill(is_padding, vocabulary)
        texts = torch.cat([prompts, input_ids[:, length:]], dim=1)
        processed = self.processor(texts, nn.functional.pad(scores, (0, 1)))[:, :vocabulary]

        # The only token that other options leave may come again.
        return processed.where(processed.isfinite().any(dim=1, keepdim=True), scores)


# --- how generation ends


class _StopStrings(StoppingCriteria):
    """Ends a row once its answer holds a stop string; unlike transformers', it leaves out the prompt.

    Attributes:
        lengths: number of tokens after which a row has ended so, by its number.
    """

    def __init__(self, tokenizer: Any, stop_strings: Sequence[str], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.stop_strings = stop_strings
        self.prompt_length = prompt_length
        # A character has four bytes at most, and a token one at least; and one more token around them.
        self.window = 4 * max(map(len, stop_strings), default=0) + 2
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        # Without any, a GPU is not waited for.
        if not self.stop_strings:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        has_ended = [False] * len(input_ids)
        answers = input_ids[:, self.prompt_length :]
        texts = self.tokenizer.batch_decode(answers[:, -self.window :].tolist())
        for row, text in enumerate(texts):
            has_ended[row] = cut_at_stop_string(text, self.stop_strings)[1]
            if has_ended[row]:
                self.lengths.setdefault(row, answers.shape[1])

        return torch.tensor(has_ended, device=input_ids.device)


class _Interruption(StoppingCriteria):
    """Ends all rows once an event is set."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def _length(ids: list[int], end_ids: set[int]) -> int:
    """Return the number of tokens of an answer, its end of text included, without the padding behind it."""
    positions = [position for position, token in enumerate(ids) if token in end_ids]
    return positions[0] + 1 if positions else len(ids)


def _as_ids(end_ids: int | Sequence[int] | None) -> set[int]:
    if end_ids is None:
        return set()
    return {end_ids} if isinstance(end_ids, int) else set(end_ids)


def _read_text(
    tokenizer: Any, ids: list[int], end_ids: int | Sequence[int] | None, stop_strings: Sequence[str]
) -> tuple[str, EndReason]:
    """Return the text of generated tokens, and why they ended."""
    text, _ = cut_at_stop_string(tokenizer.decode(ids, skip_special_tokens=True), stop_strings)
    text = text.strip()

    has_end = bool(ids) and ids[-1] in _as_ids(end_ids)
    # A stop string may be a special token, which is no part of the text.
    raw_text = tokenizer.decode(ids[:-1] if has_end else ids)
    if cut_at_stop_string(raw_text, stop_strings)[1]:
        return text, "stop string"
    return text, "end of text" if has_end else "length limit"


def cut_at_stop_string(text: str, stop_strings: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first of the stop strings, and whether it holds one."""
    positions = [text.find(string) for string in stop_strings if string in text]
    return (text[: min(positions)], True) if positions else (text, False)


# --- log-probabilities


class _TokenLogProbabilities(StoppingCriteria):
    """Records the log-probability of each token as it is generated; it never ends a row.

    So it holds the logits of one step only, where transformers' `output_logits` holds those of all.
    """

    def __init__(self) -> None:
        self._logits: Tensor | None = None
        self._steps: list[Tensor] = []

    @contextlib.contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Read the model's logits while a block runs."""
        thread = threading.get_ident()

        def read(module: nn.Module, arguments: Any, output: Any) -> None:
            # Another thread may generate with the same model.
            if threading.get_ident() == thread:
                self._logits = output.logits[:, -1]

        # Some models, such as BLIP-2, leave generation to the language model inside them.
        modules = [module for module in model.modules() if isinstance(module, GenerationMixin)]
        hooks = [module.register_forward_hook(read) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __call__(self, input_ids: Tensor, scores: Any, **options: Any) -> Tensor:
        """Record the last token of each row `[B, T]`."""
        newest = input_ids[:, -1:].to(self._logits.device)
        self._steps.append(self._logits.float().log_softmax(dim=-1).gather(1, newest)[:, 0])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Return the log-probabilities of generated tokens, `[B, T]` like these."""
        # On Apple's GPUs, transformers takes back a step that it began before it knew that all had ended.
        steps = self._steps[: ids.shape[1]]
        return torch.stack(steps, dim=1).cpu() if steps else torch.zeros(ids.shape)


def _beam_log_probabilities(logits: Sequence[Tensor], beams: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of the tokens of beams, 0 behind their ends.

    Args:
        logits: of each step, `[B * num_beams, vocabulary]`.
        beams: the beam from which each token comes, -1 behind the end of a sequence: `[S, T]`.
        ids: tokens of the sequences, `[S, T]`.
    """
    log_probabilities = torch.zeros(ids.shape)
    for step in range(ids.shape[1]):
        beam = beams[:, step]
        of_step = logits[step].log_softmax(dim=-1)[beam.clamp(min=0), ids[:, step]]
        log_probabilities[:, step] = of_step.where(beam >= 0, 0.0).cpu()
    return log_probabilities
