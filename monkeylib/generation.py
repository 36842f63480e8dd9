"""Generation: from prepared prompts to answers, at once or as a stream.

An `Answer` is a text with what is to be known about it: why it ended, its tokens, and how probable the
model finds it. All answers of the library come from `generate` and `stream`: those of `inference`, of the
evaluation, and of the harnesses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from monkeylib.errors import nearest
from monkeylib.model.limits import check_size

EndReason = Literal["end of text", "stop string", "length limit"]

# --- answers


@dataclass(frozen=True, eq=False)
class Answer:
    """A generated answer. It prints as its text, and equals any answer or string of the same text.

    Attributes:
        text: without special tokens, stop strings, and white space around it.
        ended_by: the end-of-text token, a stop string, or the limit on new tokens, which cut the answer.
        token_ids: ids of the generated tokens, the end-of-text token included.
        token_log_probabilities: for each of them, its log-probability given the prompt and those before it.
            It is the model's own: the softmax over the full vocabulary at temperature 1, however the tokens
            were selected (greedily, by beams, or sampled at another temperature).
        prompt_tokens: length of the prompt in tokens, visual tokens included.
        visual_tokens: number of visual tokens in the prompt.
        samples: with several answers to a question (`num_return_sequences`), all of them, this one first;
            else empty.
        scores: with `output_scores=True`, what the tokens were selected by, after temperature and other
            processing: `[tokens, vocabulary]`.
        logits: with `output_logits=True`, the model's logits: `[tokens, vocabulary]`.
    """

    text: str
    ended_by: EndReason
    token_ids: tuple[int, ...] = field(repr=False)
    token_log_probabilities: tuple[float, ...] = field(repr=False)
    prompt_tokens: int
    visual_tokens: int
    samples: tuple[Answer, ...] = ()
    scores: Tensor | None = field(default=None, repr=False)
    logits: Tensor | None = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Number of generated tokens, the end-of-text token included."""
        return len(self.token_ids)

    @property
    def log_probability(self) -> float:
        """Log-probability of the answer: the sum over its tokens."""
        return sum(self.token_log_probabilities)

    @property
    def is_cut(self) -> bool:
        """Whether the limit on new tokens ended the answer."""
        return self.ended_by == "length limit"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        # Not field by field: probabilities differ in their last digits from batch to batch.
        return self.text == str(other) if isinstance(other, Answer | str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds of the answer: all but scores and logits, with those of its samples."""
        return {
            "text": self.text,
            "ended_by": self.ended_by,
            "tokens": self.tokens,
            "log_probability": self.log_probability,
            "prompt_tokens": self.prompt_tokens,
            "visual_tokens": self.visual_tokens,
            "token_ids": list(self.token_ids),
            "token_log_probabilities": list(self.token_log_probabilities),
            "samples": [sample.to_dict() for sample in self.samples],
        }


# --- checks

_MOST_NEW_TOKENS = 2**24
_MOST_SEQUENCES = 65_536

# Options of transformers that only sampling heeds.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Options of transformers that have no place here, and what to do instead.
_REFUSED = {
    "generator": "samples are drawn from torch's own generator: pass seed=1, or another whole number",
    "max_length": "it counts the prompt: give max_new_tokens",
    "min_length": "it counts the prompt: give min_new_tokens",
    "max_time": "an answer ends at its end of text, at stop_strings or at max_new_tokens",
    "stopping_criteria": "an answer ends at its end of text, at stop_strings or at max_new_tokens",
    "streamer": "call `stream`, which yields the answer in parts",
    "output_attentions": "call `monkey.model.generate(**monkey.prepare(...))`, which returns them",
    "output_hidden_states": "call `monkey.model.generate(**monkey.prepare(...))`, which returns them",
    "assistant_model": "one model generates an answer, token by token",
    "prompt_lookup_num_tokens": "one model generates an answer, token by token",
    "custom_generate": "call `monkey.model.generate(**monkey.prepare(...))`, which takes it",
}

# Arguments of `generate` of transformers that are no fields of its configuration.
_RUNTIME_OPTIONS = ("logits_processor", "prefix_allowed_tokens_fn", "synced_gpus")


def context_length(model: nn.Module) -> int | None:
    """Return the most tokens that a model takes, None if its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_context(
    model: nn.Module, prompt_tokens: Sequence[int], visual_tokens: Sequence[int], max_new_tokens: int = 0
) -> None:
    """Check that prompts and their answers fit into the model's context: beyond it, answers are noise.

    Args:
        model: its configuration states the context; one that does not reads any length.
        prompt_tokens: length of each prompt.
        visual_tokens: how many of them are visual.
        max_new_tokens: maximum length of an answer.

    Raises:
        ValueError: the longest prompt does not fit.
    """
    context = context_length(model)
    if context is None or not prompt_tokens or max(prompt_tokens) + max_new_tokens <= context:
        return

    longest = max(range(len(prompt_tokens)), key=prompt_tokens.__getitem__)
    prompt = "the prompt" if len(prompt_tokens) == 1 else f"prompt {longest + 1} of {len(prompt_tokens)}"
    tokens = prompt_tokens[longest]
    sentence = f"{prompt} has {tokens} tokens, {visual_tokens[longest]} of them visual, "
    if max_new_tokens:
        sentence += f"and max_new_tokens is {max_new_tokens}, {tokens + max_new_tokens} together, "

    advice = "shorten the question or the conversation, or take fewer tiles"
    if tokens < context:
        advice += f", or set max_new_tokens to {context - tokens} at most"
    raise ValueError(f"{sentence}but the model takes {context}: {advice}")


def check_options(max_new_tokens: int, options: Mapping[str, Any]) -> None:
    """Check the options of a generation before anything is computed.

    Args:
        max_new_tokens: maximum length of an answer.
        options: arguments of transformers' `generate`, and `seed`.

    Raises:
        ValueError: an option that does not exist or has no effect, or a value that it cannot have.
    """
    check_size("max_new_tokens", max_new_tokens, _MOST_NEW_TOKENS)
    for name in options:
        _check_name(name)

    # None leaves an option to the model's own settings.
    given = {name: value for name, value in options.items() if value is not None}
    beams, sequences = given.get("num_beams", 1), given.get("num_return_sequences", 1)
    check_size("num_beams", beams, _MOST_SEQUENCES)
    check_size("num_return_sequences", sequences, _MOST_SEQUENCES)

    samples = given.get("do_sample", False)
    if 1 < beams < sequences:
        raise ValueError(f"num_return_sequences is {sequences}: expected at most num_beams, which is {beams}")
    if sequences > 1 and beams == 1 and not samples:
        raise ValueError(
            f"num_return_sequences is {sequences}: greedy answers are all the same, so pass do_sample=True, "
            f"or num_beams={sequences} or more"
        )

    for name in _SAMPLING:
        if name in given and not samples:
            raise ValueError(
                f"{name} is {given[name]!r}, which only sampling heeds: pass do_sample=True, or leave it out "
                "for the greedy answer"
            )

    _check_positive("temperature", given.get("temperature", 1.0), "none and no do_sample is greedy")
    _check_positive("repetition_penalty", given.get("repetition_penalty", 1.0), "1 means none")
    top_p = given.get("top_p", 1.0)
    if not _is_number(top_p) or not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p!r}: expected a number above 0, up to 1")
    if given.get("top_k", 0):
        check_size("top_k", given["top_k"], _MOST_NEW_TOKENS)

    list_stop_strings(given.get("stop_strings"))
    seed = given.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}: expected a whole number from 0")


def _check_name(name: str) -> None:
    if name in _REFUSED:
        raise ValueError(f"answers take no {name}: {_REFUSED[name]}")

    names = [*GenerationConfig().to_dict(), *_RUNTIME_OPTIONS, "seed"]
    if name not in names:
        hint = nearest(name, names) or "see transformers' GenerationConfig for those that do"
        raise ValueError(f"there is no option of generation called {name!r}: {hint}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_positive(name: str, value: Any, advice: str) -> None:
    # Not `value <= 0`, which NaN passes.
    if not _is_number(value) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}: expected a number above 0 ({advice})")


def list_stop_strings(stop_strings: str | Sequence[str] | None) -> list[str]:
    """Return one stop string or several as a list.

    Raises:
        ValueError: an empty one, or something else than text.
    """
    strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
    for string in strings:
        if not isinstance(string, str) or not string:
            raise ValueError(f"stop_strings holds {string!r}: expected texts that are not empty")
    return strings


# --- generation


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
        options: as in `inference.Monkey.answer`.

    Returns:
        One answer for each prompt; with `num_return_sequences`, the others are its `samples`.

    Raises:
        ValueError: a prompt that does not fit into the model's context, or as `check_options`.
    """
    check_options(max_new_tokens, options)
    return _generate(model, tokenizer, inputs, max_new_tokens, end_ids, options)


def _generate(
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
        **options,
    }
    seed = settings.pop("seed", None)
    stop_strings = list_stop_strings(settings.pop("stop_strings", None))

    stops = _StopStrings(tokenizer, stop_strings, inputs["input_ids"].shape[1])
    with _seeded(seed):
        if _setting(model, settings, "num_beams") > 1:
            sequences = _search_beams(model, inputs, settings, stops)
        else:
            sequences = _extend(model, inputs, settings, stops, streamer, interruption)

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
    streamer: TextIteratorStreamer | None,
    interruption: Event | None,
) -> _Sequences:
    """Extend each prompt token by token, greedily or by sampling."""
    returns_steps = bool(settings.get("output_scores") or settings.get("output_logits"))
    recorder = _TokenLogProbabilities()
    criteria: list[StoppingCriteria] = [recorder, stops]
    if interruption is not None:
        criteria.append(_Interruption(interruption))

    with recorder.attached(model):
        output = model.generate(
            **inputs,
            **{**settings, "return_dict_in_generate": returns_steps},
            stopping_criteria=StoppingCriteriaList(criteria),
            streamer=streamer,
        )

    # Prompts are padded on the left, so every answer begins at the same position.
    ids = (output.sequences if returns_steps else output)[:, inputs["input_ids"].shape[1] :]
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
    model: Any, inputs: Mapping[str, Any], settings: Mapping[str, Any], stops: _StopStrings
) -> _Sequences:
    """Search the most probable answers with beams."""
    output = model.generate(
        **inputs,
        **{**settings, "return_dict_in_generate": True, "output_logits": True},
        stopping_criteria=StoppingCriteriaList([stops]),
    )

    ids = output.sequences[:, inputs["input_ids"].shape[1] :]
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


def count_visual_tokens(model: Any, input_ids: Tensor) -> list[int]:
    """Return the number of visual tokens in each prompt of a batch `[B, T]`."""
    image_token_id = getattr(model.config, "image_token_id", None)
    if image_token_id is None:
        return [0] * len(input_ids)
    return (input_ids == image_token_id).sum(dim=1).tolist()


def _join_samples(samples: list[Answer]) -> Answer:
    """Return the first of the answers to a question, with all of them if there are several."""
    if len(samples) == 1:
        return samples[0]
    return dataclasses.replace(samples[0], samples=tuple(samples))


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw the samples of a block from a seed; the random numbers after it are as without it."""
    if seed is None:
        yield
        return

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


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
        has_ended = [False] * len(input_ids)
        if self.stop_strings:
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

        hook = model.register_forward_hook(read)
        try:
            yield
        finally:
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


# --- streams


class AnswerStream(Iterator[str]):
    """Parts of an answer's text as the model generates them, and then the answer.

        with monkey.stream(image, question) as stream:
            for part in stream:
                print(part, end="", flush=True)
        stream.answer.ended_by

    The parts together are the answer's text, with the white space around it. Leaving the `with` block ends
    generation, also early or by an error or Ctrl-C, and no thread remains. Without the block, `close` does.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        inputs: Mapping[str, Any],
        max_new_tokens: int,
        options: Mapping[str, Any],
    ) -> None:
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._interruption = Event()
        self._stop_strings = list_stop_strings(options.get("stop_strings"))
        self._text = ""  # what has come and is not yet yielded
        self._is_stopped = False  # by a stop string
        self._is_complete = False
        self._answers: list[Answer] = []
        self._errors: list[BaseException] = []

        # `generate` returns at the end only, so it runs in a thread. That holds no reference to this object,
        # so that a stream nobody reads any more is closed.
        streamer, interruption = self._streamer, self._interruption
        answers, errors = self._answers, self._errors

        @torch.no_grad()
        def run() -> None:
            try:
                answers.extend(
                    _generate(model, tokenizer, inputs, max_new_tokens, None, options, streamer, interruption)
                )
            except BaseException as error:  # raised in the caller's thread
                errors.append(error)
                streamer.end()

        self._thread = Thread(target=run, daemon=True, name="monkeylib stream")

    @property
    def answer(self) -> Answer:
        """The complete answer; of a stream that is not at its end, the rest is read first.

        Raises:
            ValueError: the stream was closed before its end.
        """
        for _ in self:
            pass
        if not self._answers or self._interruption.is_set():
            raise ValueError("the stream was closed before its end: it has no complete answer")
        return self._answers[0]

    def __next__(self) -> str:
        """Return the next part of the text; errors of the model are raised here."""
        try:
            return self._next_part()
        except StopIteration:
            # `answer = yield from stream` gives the answer.
            raise StopIteration(self._answers[0] if self._answers else None) from None
        except BaseException:
            self.close()
            raise

    def _next_part(self) -> str:
        if self._thread.ident is None and not self._is_complete:
            self._thread.start()

        while not self._is_complete:
            part = next(self._streamer, None)
            if part is None:
                self._is_complete = True
                self._thread.join()
                if self._errors:
                    raise self._errors[0]
            if text := self._release(part or ""):
                return text
        raise StopIteration

    def _release(self, part: str) -> str:
        """Return what can be yielded after another part has come: no part of a stop string."""
        if self._is_stopped:
            return ""

        text, self._is_stopped = cut_at_stop_string(self._text + part, self._stop_strings)
        # The last characters may be the beginning of a stop string.
        held = max(map(len, self._stop_strings), default=1) - 1
        if self._is_stopped or self._is_complete:
            held = 0

        ready = text[: len(text) - held]
        self._text = text[len(ready) :]
        return ready

    def close(self) -> None:
        """End generation after the token at hand, and wait for its thread."""
        if not self._is_complete:
            self._is_complete = True
            self._interruption.set()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Its thread ends soon. Waiting here could wait forever: Python may be about to end.
        self._interruption.set()


def stream(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], max_new_tokens: int, **options: Any
) -> AnswerStream:
    """Return the stream of one answer; arguments as in `generate`.

    Raises:
        ValueError: more than one prompt or answer, or as `generate`.
    """
    check_options(max_new_tokens, options)
    for name in ("num_beams", "num_return_sequences"):
        if (options.get(name) or 1) > 1:
            raise ValueError(
                f"{name} is {options[name]}: a stream is one answer without beams, so call `answer`"
            )

    prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
    check_context(model, prompt_tokens, count_visual_tokens(model, inputs["input_ids"]), max_new_tokens)
    return AnswerStream(model, tokenizer, inputs, max_new_tokens, options)
