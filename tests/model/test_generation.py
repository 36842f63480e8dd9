"""Generation: log-probabilities against a forward pass, penalties, why answers end, and scores."""

from itertools import chain, product

import pytest
import torch

from monkeylib.checkpoints import qwen_tokenizer
from monkeylib.model.generation import _StopStrings
from monkeylib.monkey import Monkey
from tests.support.answers import assert_same
from tests.support.released_files import vocabulary


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
    # A token ends the text that greedy answers of one batch reach at different places.
    free = [answer.token_ids for answer in monkey.answer_batch(questions, max_new_tokens=8)]
    end = next(
        token for token in chain(*free) if len({token in ids and ids.index(token) for ids in free}) > 1
    )
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

    assert len(lengths) > 1 or way != "greedy"


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


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "num_beams": 3, "num_return_sequences": 2},
    ],
)
@pytest.mark.parametrize("shares_image", [False, True])
def test_padding_of_a_batch_is_not_penalised(monkey, questions, options, shares_image):
    """The shortest prompts have the most padding, here with the token that they are answered with."""
    if shares_image:
        questions = [(questions[0][0], question) for _, question in questions]
    pairs = [(image, question) for image, question in questions for question in (question, "?")]
    alone = [monkey.answer(*pair, max_new_tokens=8, **options) for pair in pairs]

    for token_id in {answer.token_ids[0] for answer in alone}:
        tokenizer = monkey.processor.tokenizer
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(token_id)
        together = monkey.answer_batch(pairs, max_new_tokens=8, **options)
        for answer, expected in zip(together, alone, strict=True):
            assert [sample.token_ids for sample in (answer, *answer.samples)] == [
                sample.token_ids for sample in (expected, *expected.samples)
            ]


def test_penalties_are_those_of_transformers(monkey, questions):
    image, question = questions[0]
    options = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "max_new_tokens": 8}
    inputs = monkey.prepare([image], [question], "vqa")
    end_id = monkey.processor.tokenizer.eos_token_id
    output = monkey.model.generate(
        **inputs, **options, do_sample=False, eos_token_id=end_id, pad_token_id=end_id
    )
    expected = tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
    assert monkey.answer(image, question, **options).token_ids == expected

    # What the model's own configuration says.
    monkey.model.generation_config.update(repetition_penalty=1.5, no_repeat_ngram_size=2)
    assert monkey.answer(image, question, max_new_tokens=8).token_ids == expected
    free = monkey.answer(image, question, max_new_tokens=8, repetition_penalty=1, no_repeat_ngram_size=0)
    assert free.token_ids != expected


def test_end_of_text_that_is_forced_may_come_again(monkey, questions):
    token_id = monkey.prepare(*map(list, zip(questions[0], strict=True)))["input_ids"][0, 0].item()
    answer = monkey.answer(
        *questions[0], max_new_tokens=3, no_repeat_ngram_size=1, forced_eos_token_id=token_id
    )
    assert answer.token_ids[-1] == token_id


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
    free = [answer.token_ids for answer in monkey.answer_batch(questions, max_new_tokens=8)]

    def expected_end(token_ids, stop: str, end: int) -> tuple[int, str]:
        for count, token in enumerate(token_ids, start=1):
            if token == end:
                return count, "end of text"
            if stop in decode(token_ids[:count]):
                return count, "stop string"
        return 8, "length limit"

    # Tokens of the answers that end some of them, and not all for one reason.
    for stop_token, end in product(free[0], free[1]):
        stop = decode(stop_token)
        expected = [expected_end(token_ids, stop, end) for token_ids in free]
        if len({reason for _, reason in expected}) > 1:
            break

    answers = monkey.answer_batch(
        questions, max_new_tokens=8, stop_strings=[stop], eos_token_id=end, pad_token_id=end
    )
    assert [(answer.tokens, answer.ended_by) for answer in answers] == expected
    assert len({answer.ended_by for answer in answers}) > 1


def test_stop_string_in_the_prompt_does_not_count(monkey, questions):
    answer = monkey.answer(*questions[0], max_new_tokens=4, stop_strings=["Answer: ", "?"])
    assert_same([answer], [monkey.answer(*questions[0], max_new_tokens=4)])
    assert answer.tokens == 4


@pytest.mark.parametrize("stop", ["。", "子。", "\n\n", "😀", "monkey", "<|im_end|>"])
def test_stop_string_of_bytes_ends_the_row_with_its_last_token(stop, tmp_path):
    """A token of Qwen's may be a part of a character, and a stop string a special token."""
    path = tmp_path / qwen_tokenizer.VOCABULARY
    path.write_bytes(vocabulary(3000))
    tokenizer = qwen_tokenizer.build_tokenizer(path)
    ids = tokenizer.encode(f"a very long text about {'猴子' * 20}。 a monkey\n\n😀<|im_end|> and more")

    stops = _StopStrings(tokenizer, [stop], prompt_length=1)
    ended = [count for count in range(1, len(ids)) if stops(torch.tensor([[0, *ids[:count]]]), None)]
    expected = next(count for count in range(1, len(ids)) if stop in tokenizer.decode(ids[:count]))
    assert ended[0] == expected == stops.lengths[0]


def test_prompt_is_counted_without_padding(monkey, questions):
    expected = [
        monkey.prepare([image], [question], "vqa")["input_ids"].shape[1] for image, question in questions
    ]
    answers = monkey.answer_batch(questions, max_new_tokens=2)
    assert [answer.prompt_tokens for answer in answers] == expected
    assert {answer.visual_tokens for answer in answers} == {5 * 4}


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
