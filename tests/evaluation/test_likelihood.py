import numpy as np
import pytest
import torch

from monkeylib import resources
from monkeylib.evaluation import benchmarks
from monkeylib.evaluation.examples import Example
from monkeylib.evaluation.likelihood import score_answers
from monkeylib.evaluation.prefix_sharing import PrefixSharingMonkey
from monkeylib.inference import load_model
from monkeylib.model.context import context_length


@pytest.fixture()
def examples(make_image):
    image = make_image(1)
    return [
        Example("a", image, "What is it?", ("a dog",), image_id="1"),
        Example("b", make_image(2), "Is the word a rather long one?", ("no",), image_id="2"),
        Example("c", image, "And?", ("three of them", "3"), image_id="1"),
        Example("d", image, "", ("a dog on a lawn",), prompt="caption", image_id="1"),
    ]


def test_likelihood_is_that_of_the_loss(monkey, examples):
    scores = score_answers(monkey, examples)
    layout = monkey.processor.layout

    for number, example in enumerate(examples):
        # One row alone, without cache or padding.
        views = monkey.processor.image_processor(example.image)
        prompt = layout.prefix_ids([monkey.processor.visual_tokens()])
        prompt += layout.question_ids(example.question, example.prompt)
        answer = layout.answer_ids(example.answers[0])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss = monkey.model(torch.tensor([prompt + answer]), **views, labels=labels).loss

        expected = -float(loss) * len(answer) / len(example.answers[0])
        assert scores.log_likelihood[number] == pytest.approx(expected, rel=1e-5)


def test_exact_is_what_greedy_decoding_says():
    # The trained base, which is right about some questions and wrong about others.
    monkey = load_model(resources.models() / "nano-base")
    questions = benchmarks.get("nano-large").load(24)
    answers = PrefixSharingMonkey(monkey, max_new_tokens=24)(questions)

    expected = [answer.text == example.answers[0] for answer, example in zip(answers, questions, strict=True)]
    assert 0 < sum(expected) < len(expected)
    assert score_answers(monkey, questions).exact.tolist() == expected


def test_likelier_answers_score_higher(monkey, examples):
    before = score_answers(monkey, examples[:1]).log_likelihood
    layout = monkey.processor.layout
    prompt = layout.prefix_ids([monkey.processor.visual_tokens()])
    prompt += layout.question_ids("What is it?", "vqa")
    answer = layout.answer_ids("a dog")
    views = monkey.processor.image_processor(examples[0].image)
    labels = torch.tensor([[-100] * len(prompt) + answer])
    monkey.model(torch.tensor([prompt + answer]), **views, labels=labels).loss.backward()

    # A step against the gradient, so short that the loss falls by about 0.01 whatever the weights are.
    weights = [weight for weight in monkey.model.parameters() if weight.grad is not None]
    squared_norm = sum(float((weight.grad**2).sum()) for weight in weights)
    torch.optim.SGD(weights, lr=0.01 / squared_norm).step()
    assert score_answers(monkey, examples[:1]).log_likelihood > before


def test_order_and_company_do_not_matter(monkey, examples):
    together = score_answers(monkey, examples)
    backwards = score_answers(monkey, examples[::-1])
    assert np.allclose(together.log_likelihood, backwards.log_likelihood[::-1], rtol=1e-5)
    assert (together.exact == backwards.exact[::-1]).all()


def test_examples_without_answers_are_refused(monkey, make_image):
    with pytest.raises(ValueError, match="nothing to score"):
        score_answers(monkey, [])
    with pytest.raises(ValueError, match="q1 has no answer"):
        score_answers(monkey, [Example("q1", make_image(1), "What?", ())])


def test_answers_beyond_the_context_are_refused(monkey, make_image):
    answer = "a" * context_length(monkey.model)
    with pytest.raises(ValueError, match="tokens, .* but the model takes"):
        score_answers(monkey, [Example("q1", make_image(1), "What?", (answer,))])
