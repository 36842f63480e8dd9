"""Answers: log-probabilities against a forward pass, why they end, options, and streams."""

import json
import threading
from collections import Counter

import pytest
import torch

from monkeylib import generation
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.inference import Monkey
from monkeylib.integrations import common
from tests.support import random_monkey

QUESTIONS = ["What is it?", "And what does this longer question ask?", "Why?"]


@pytest.fixture()
def monkey() -> Monkey:
    """A model whose answers differ from question to question."""
    monkey = random_monkey.make_monkey()
    return Monkey(monkey.model.eval(), monkey.processor)


@pytest.fixture()
def questions(make_image):
    return [(make_image(number), question) for number, question in enumerate(QUESTIONS)]


@torch.no_grad()
def forced_log_probabilities(monkey: Monkey, image, question: str, token_ids) -> list[float]:
    """Return the log-probabilities of an answer's tokens from one forward pass over prompt and answer."""
    inputs = monkey.prepare([image], [question], "vqa")
    answer_ids = torch.tensor([token_ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer_ids], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    logits = monkey.model(**inputs).logits[:, -len(token_ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(2, answer_ids[..., None])[0, :, 0].tolist()


WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 3, "num_return_sequences": 3},
    "penalised": {"repetition_penalty": 1.5},
    "sampled": {"do_sample": True, "temperature": 2.0, "top_k": 5, "num_return_sequences": 4, "seed": 1},
    "sampled beams": {"do_sample": True, "num_beams": 2, "num_return_sequences": 2, "seed": 1},
    "stopped": {"stop_strings": ["8", "oe"], "num_beams": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_log_probabilities_are_those_of_a_forward_pass(monkey, questions, way):
    """The model's own distribution, also where another one was sampled from."""
    # The most frequent token ends the text, so that answers of one batch differ in length.
    free = monkey.answer_batch(questions, max_new_tokens=8, **WAYS[way])
    tokens = [token for answer in free for one in (answer, *answer.samples) for token in one.token_ids]
    end, _ = Counter(tokens).most_common(1)[0]
    answers = monkey.answer_batch(questions, max_new_tokens=8, eos_token_id=end, **WAYS[way])

    lengths = set()
    assert len(answers) == len(questions)
    for (image, question), answer in zip(questions, answers, strict=True):
        samples = answer.samples or (answer,)
        assert len(samples) == WAYS[way].get("num_return_sequences", 1)
        assert samples[0] == answer and samples[0].token_ids == answer.token_ids

        for sample in samples:
            lengths.add(sample.tokens)
            forced = forced_log_probabilities(monkey, image, question, sample.token_ids)
            assert sample.token_log_probabilities == pytest.approx(forced, abs=1e-4)
            assert sample.log_probability == pytest.approx(sum(forced), abs=1e-3)

    assert len(lengths) > 1


@pytest.mark.parametrize("way", ["greedy", "several beams", "penalised", "stopped"])
def test_batch_gives_the_answers_of_single_questions(monkey, questions, way):
    for single, together in zip(
        [monkey.answer(*question, max_new_tokens=8, **WAYS[way]) for question in questions],
        monkey.answer_batch(questions, max_new_tokens=8, **WAYS[way]),
        strict=True,
    ):
        for one, other in zip((single, *single.samples), (together, *together.samples), strict=True):
            one, other = one.to_dict(), other.to_dict()
            for name in ("token_log_probabilities", "log_probability"):
                assert one.pop(name) == pytest.approx(other.pop(name), abs=1e-4)
            one.pop("samples"), other.pop("samples")
            assert one == other


def test_beams_are_ordered_by_their_log_probability(monkey, questions):
    answer = monkey.answer(*questions[0], max_new_tokens=6, num_beams=4, num_return_sequences=4)
    scores = [sample.log_probability / sample.tokens for sample in answer.samples]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4

    inputs = monkey.prepare([questions[0][0]], [questions[0][1]], "vqa")
    output = monkey.model.generate(
        **inputs, max_new_tokens=6, num_beams=4, num_return_sequences=4, do_sample=False,
        return_dict_in_generate=True, output_scores=True, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    assert scores == pytest.approx(output.sequences_scores.tolist(), abs=1e-4)


# Why an answer ends


def test_answer_says_why_it_ended_and_counts_its_tokens(monkey, questions):
    free = monkey.answer(*questions[0], max_new_tokens=8)
    decode = monkey.processor.tokenizer.decode
    assert (free.ended_by, free.tokens, free.is_cut) == ("length limit", 8, True)

    end = free.token_ids[3]
    position = free.token_ids.index(end)
    ended = monkey.answer(*questions[0], max_new_tokens=8, eos_token_id=end)
    assert (ended.ended_by, ended.tokens, ended.is_cut) == ("end of text", position + 1, False)
    assert ended.token_ids == free.token_ids[: position + 1]

    # The limit is reached with the end of text.
    at_limit = monkey.answer(*questions[0], max_new_tokens=position + 1, eos_token_id=end)
    assert at_limit.ended_by == "end of text"

    stop = decode(free.token_ids[4:6])
    stopped = monkey.answer(*questions[0], max_new_tokens=8, stop_strings=stop)
    first = decode(free.token_ids).index(stop)
    assert stopped.ended_by == "stop string"
    assert stopped.text == decode(free.token_ids)[:first].strip()
    assert stopped.tokens < 8 and stopped.token_ids == free.token_ids[: stopped.tokens]


def test_rows_of_a_batch_end_for_their_own_reasons(monkey, questions):
    """Padding behind a stop string is the end-of-text token in many tokenizers."""
    decode = monkey.processor.tokenizer.decode
    free = monkey.answer_batch(questions, max_new_tokens=8)
    stop, end = decode(free[0].token_ids[2]), free[1].token_ids[3]
    assert stop.strip()

    answers = monkey.answer_batch(
        questions, max_new_tokens=8, stop_strings=[stop], eos_token_id=end, pad_token_id=end
    )
    for alone, answer in zip(free, answers, strict=True):
        expected = 8, "length limit"
        for count, token in reversed(list(enumerate(alone.token_ids, start=1))):
            if stop in decode(token):
                expected = count, "stop string"
            if token == end:
                expected = count, "end of text"
        assert (answer.tokens, answer.ended_by) == expected

    assert len({answer.ended_by for answer in answers}) > 1


def test_stop_string_in_the_prompt_does_not_count(monkey, questions):
    answer = monkey.answer(*questions[0], max_new_tokens=4, stop_strings=["Answer: ", "?"])
    assert answer == monkey.answer(*questions[0], max_new_tokens=4) and answer.tokens == 4


def test_prompt_is_counted_without_padding(monkey, questions):
    expected = [
        monkey.prepare([image], [question], "vqa")["input_ids"].shape[1] for image, question in questions
    ]
    answers = monkey.answer_batch(questions, max_new_tokens=2)
    assert [answer.prompt_tokens for answer in answers] == expected
    assert {answer.visual_tokens for answer in answers} == {5 * 4}


# Options


def test_scores_are_returned_for_each_token(monkey, questions):
    for options in ({}, {"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}):
        answer = monkey.answer(
            *questions[0],
            max_new_tokens=5,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
        for sample in answer.samples or [answer]:
            vocabulary = monkey.model.config.text_config.vocab_size
            assert sample.scores.shape == sample.logits.shape == (sample.tokens, vocabulary)
            ids = torch.tensor(sample.token_ids)[:, None]
            log_probabilities = sample.logits.log_softmax(-1).gather(1, ids)[:, 0]
            assert log_probabilities.tolist() == pytest.approx(sample.token_log_probabilities, abs=1e-4)

    greedy = monkey.answer(*questions[0], max_new_tokens=5, output_scores=True)
    assert greedy.scores.argmax(-1).tolist() == list(greedy.token_ids) and greedy.logits is None


def test_seed_decides_the_samples_and_leaves_torch_alone(monkey, questions):
    def sample(seed: int) -> list[str]:
        answer = monkey.answer(
            *questions[0],
            max_new_tokens=8,
            do_sample=True,
            temperature=3.0,
            num_return_sequences=3,
            seed=seed,
        )
        return [sample.text for sample in answer.samples]

    state = torch.random.get_rng_state()
    assert sample(1) == sample(1) != sample(2)
    assert len(set(sample(1))) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a whole number from 1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"tempreature": 1.0}, "no option of generation called 'tempreature': did you mean temperature"),
        ({"nonsense_of_mine": 1}, "no option of generation called 'nonsense_of_mine'"),
        ({"temperature": 0.7}, "temperature is 0.7, which only sampling heeds: pass do_sample=True"),
        ({"top_p": 0.7}, "top_p is 0.7, which only sampling heeds"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0: expected a number above 0"),
        ({"temperature": "hot", "do_sample": True}, "temperature is 'hot'"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5: expected a number above 0, up to 1"),
        ({"top_k": -1, "do_sample": True}, "top_k is -1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"num_return_sequences": 3}, "greedy answers are all the same, so pass do_sample=True"),
        ({"num_return_sequences": 3, "num_beams": 2}, "expected at most num_beams, which is 2"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"stop_strings": ["a", ""]}, "stop_strings holds ''"),
        ({"stop_strings": [3]}, "stop_strings holds 3"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"generator": torch.Generator()}, "answers take no generator: .*pass seed=1"),
        ({"max_length": 50}, "answers take no max_length: it counts the prompt"),
        ({"streamer": print}, "answers take no streamer: call `stream`"),
        ({"output_attentions": True}, "answers take no output_attentions"),
        ({"prompt": "nonsense"}, "there is no prompt called 'nonsense'"),
        ({"question": ""}, "needs a question"),
    ],
)
def test_bad_option_is_one_sentence_in_every_way_of_asking(monkey, make_image, options, complaint):
    arguments = {"image": make_image(), "question": "What?", **options}
    for call in (monkey.answer, monkey.chat, monkey.stream):
        with pytest.raises(ValueError, match=complaint) as raised:
            call(**arguments)
        assert "\n" not in str(raised.value)

    question = (arguments.pop("image"), arguments.pop("question"))
    with pytest.raises(ValueError, match=complaint):
        monkey.answer_batch([question], **arguments)


# The context


def test_every_door_refuses_a_prompt_beyond_the_context(monkey, make_image):
    """Also a prompt that fits alone, but not together with its answer."""
    image, question = make_image(), "What?"
    prompt_tokens = monkey.prepare([image], [question], "vqa")["input_ids"].shape[1]
    context = monkey.model.config.text_config.max_position_embeddings = prompt_tokens + 9
    numbers = (
        rf"has {prompt_tokens} tokens, 20 of them visual, and max_new_tokens is 10, {context + 1} together"
    )
    refused = pytest.raises(ValueError, match=rf"{numbers}, but the model takes {context}: .* to 9 at most")

    monkey.answer(image, question, max_new_tokens=9)
    with refused:
        monkey.answer(image, question, max_new_tokens=10)
    with refused:
        monkey.chat(image, question, max_new_tokens=10)
    with refused:
        monkey.stream(image, question, max_new_tokens=10)
    with refused:
        PrefixSharingMonkey(monkey, 10)([Example("a", image, question, ())])
    with refused:
        common.generate_answers(monkey, [(question, [image])], "vqa", 10)
    with refused:
        common.generate_answers(monkey, [(question, [image])], "vqa", 10, num_beams=2)
    with pytest.raises(ValueError, match=f"prompt 2 of 2 has {prompt_tokens} tokens"):
        monkey.answer_batch([(image, "?"), (image, question)], max_new_tokens=10)

    assert common.compute_log_likelihood(monkey, question, [image], "vqa", "y" * 4)
    with pytest.raises(ValueError, match=f"but the model takes {context}"):
        common.compute_log_likelihood(monkey, question, [image], "vqa", "y" * 10)

    # A prompt that does not fit at all.
    with pytest.raises(ValueError, match=r"has \d+ tokens, 20 of them visual, but the model takes"):
        monkey.prepare([image], ["what? " * 50], "vqa")
    with pytest.raises(ValueError, match=f"but the model takes {context}"):
        monkey.chat(image, question, [("What?", "an answer " * 20)], max_new_tokens=1)


# Answers as values


def test_answer_prints_and_compares_as_its_text(monkey, questions):
    answer = monkey.answer(*questions[0], max_new_tokens=5)
    assert str(answer) == f"{answer}" == answer.text == answer
    assert answer != "something else" and answer != 5
    assert {answer: 1}[answer.text] == 1

    fields = json.loads(json.dumps(answer.to_dict()))
    assert fields["text"] == answer.text and fields["tokens"] == 5 and fields["samples"] == []


def test_history_takes_answers(monkey, make_image):
    first = monkey.chat(make_image(), "What?", max_new_tokens=4)
    expected = monkey.chat(make_image(), "Why?", [("What?", first.text)], max_new_tokens=4)
    second = monkey.chat(make_image(), "Why?", [("What?", first)], max_new_tokens=4)
    assert second == expected and second.prompt_tokens == expected.prompt_tokens


# Streams


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "monkeylib stream"]


def test_stream_ends_with_the_answer_of_a_single_question(monkey, questions):
    for image, question in questions:
        expected = monkey.answer(image, question, max_new_tokens=24)
        with monkey.stream(image, question, max_new_tokens=24) as stream:
            parts = list(stream)

        assert "".join(parts).strip() == stream.answer == expected
        assert stream.answer.token_ids == expected.token_ids
        assert stream.answer.token_log_probabilities == pytest.approx(expected.token_log_probabilities)
        assert all(parts) and list(stream) == []
        # Without reading the parts.
        assert monkey.stream(image, question, max_new_tokens=24).answer == expected

    assert stream_threads() == []


def test_stream_can_be_delegated_to(monkey, questions):
    def answer():
        return (yield from monkey.stream(*questions[0], max_new_tokens=3))

    parts = answer()
    while True:
        try:
            next(parts)
        except StopIteration as end:
            assert end.value == monkey.answer(*questions[0], max_new_tokens=3)
            return


def test_stream_yields_nothing_of_a_stop_string(monkey, questions):
    text = monkey.answer(*questions[1], max_new_tokens=24).text
    for start in range(0, len(text) - 3, 3):
        stop = text[start : start + 3]
        stream = monkey.stream(*questions[1], max_new_tokens=24, stop_strings=[stop])
        assert "".join(stream).strip() == stream.answer == text.partition(stop)[0].strip()
        assert stream.answer.ended_by == "stop string"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_stream_leaves_no_thread(monkey, make_image, error):
    steps = []
    monkey.model.register_forward_hook(lambda *_: steps.append(1))

    with pytest.raises(error), monkey.stream(make_image(), "What?", max_new_tokens=1500) as stream:
        for _ in stream:
            raise error

    assert stream_threads() == [] and 0 < len(steps) < 1500
    with pytest.raises(ValueError, match="closed before its end"):
        print(stream.answer)


def test_interruption_while_waiting_for_a_part_leaves_no_thread(monkey, make_image, monkeypatch):
    stream = monkey.stream(make_image(), "What?", max_new_tokens=1500)
    next(stream)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation.TextIteratorStreamer, "__next__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert stream_threads() == []


def test_stream_that_nobody_reads_any_more_ends(monkey, make_image):
    for _ in monkey.stream(make_image(), "What?", max_new_tokens=1500):
        break
    for thread in stream_threads():
        thread.join(timeout=30)
    assert stream_threads() == []


def test_error_of_the_model_reaches_the_reader_of_a_stream(monkey, make_image):
    def fail(*_):
        raise RuntimeError("no memory")

    stream = monkey.stream(make_image(), "What?", max_new_tokens=4)
    monkey.model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        list(stream)
    assert stream_threads() == []

    for options in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(ValueError, match="a stream is one answer without beams"):
            monkey.stream(make_image(), "What?", **options)


def test_answers_beside_a_stream_are_its_own(monkey, questions):
    """Both record the logits of one model, in two threads."""
    expected = [monkey.answer(*question, max_new_tokens=12) for question in questions[:2]]
    stream = monkey.stream(*questions[0], max_new_tokens=12)
    next(stream)
    beside = monkey.answer(*questions[1], max_new_tokens=12)

    for answer, alone in zip((stream.answer, beside), expected, strict=True):
        assert answer.token_log_probabilities == pytest.approx(alone.token_log_probabilities, abs=1e-5)
