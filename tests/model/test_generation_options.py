"""Options that are checked before anything is computed."""

import numpy as np
import pytest
import torch


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0: expected a whole number from 1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"tempreature": 1.0}, "no option of generation called 'tempreature': did you mean temperature"),
        ({"max_tokens": 5}, "did you mean max_new_tokens"),
        ({"nonsense_of_mine": 1}, "no option of generation called 'nonsense_of_mine'"),
        (
            {"temperature": 0.7},
            "temperature is 0.7, which has an effect with sampling alone: pass do_sample=True",
        ),
        ({"top_p": 0.7}, "top_p is 0.7, which has an effect with sampling alone"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0: expected a number from 0.000001"),
        (
            {"temperature": 1e-300, "do_sample": True},
            "temperature is 1e-300: expected a number from 0.000001",
        ),
        ({"temperature": "hot", "do_sample": True}, "temperature is 'hot'"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5: expected a number above 0, up to 1"),
        ({"top_k": -1, "do_sample": True}, "top_k is -1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"num_return_sequences": 3}, "greedy answers are all the same, so pass do_sample=True"),
        ({"num_return_sequences": 3, "num_beams": 2}, "expected at most num_beams, which is 2"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"stop_strings": ["a", ""]}, "stop_strings is .*: expected a text that is not empty, or a list"),
        ({"stop_strings": [3]}, "stop_strings is .3.: expected a text"),
        ({"stop_strings": 5}, "stop_strings is 5: expected a text"),
        ({"stop_strings": {"a": 1}}, "stop_strings is .*: expected a text"),
        ({"eos_token_id": "a"}, "eos_token_id is 'a': expected the id of a token, or a list of ids"),
        ({"eos_token_id": -1}, "eos_token_id is -1: expected the id of a token"),
        ({"forced_eos_token_id": "q"}, "forced_eos_token_id is 'q': expected the id of a token"),
        ({"suppress_tokens": 7}, "suppress_tokens is 7: expected a list of ids of tokens"),
        ({"begin_suppress_tokens": ["x"]}, "begin_suppress_tokens is .*: expected a list of ids"),
        ({"exponential_decay_length_penalty": 3}, "exponential_decay_length_penalty is 3: expected a pair"),
        ({"logits_processor": 5}, "logits_processor is 5: expected a list of functions"),
        ({"prefix_allowed_tokens_fn": 5}, "prefix_allowed_tokens_fn is 5: expected a function"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"generator": torch.Generator()}, "answers take no generator: .*pass seed=1"),
        ({"max_length": 50}, "answers take no max_length: it counts the prompt"),
        ({"streamer": print}, "answers take no streamer: call `stream`"),
        ({"output_attentions": True}, "answers take no output_attentions: call .*model.generate"),
        ({"guidance_scale": 2.0}, "answers take no guidance_scale"),
        ({"assistant_model": 1}, "answers take no assistant_model"),
        ({"do_sample": "no"}, "do_sample is 'no': expected True or False"),
        ({"length_penalty": 2.0}, "length_penalty is 2.0, which has an effect with beams alone"),
        ({"length_penalty": "x", "num_beams": 2}, "length_penalty is 'x': expected a number"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 5},
            "min_new_tokens is 9: expected at most max_new_tokens, 5",
        ),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1: expected a whole number from 0"),
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


def test_numbers_of_numpy_and_none_are_options(monkey, questions):
    options = {"num_beams": np.int64(2), "length_penalty": np.float32(1.5), "temperature": None}
    expected = monkey.answer(*questions[0], max_new_tokens=4, num_beams=2, length_penalty=1.5)
    assert monkey.answer(*questions[0], max_new_tokens=4, **options) == expected

    sampling = {"do_sample": True, "temperature": np.float32(2), "repetition_penalty": 1, "seed": 1}
    expected = monkey.answer(*questions[0], max_new_tokens=4, do_sample=True, temperature=2.0, seed=1)
    assert monkey.answer(*questions[0], max_new_tokens=4, **sampling) == expected

    free = monkey.answer(*questions[0], max_new_tokens=4).token_ids
    end = free[1]
    answer = monkey.answer(*questions[0], max_new_tokens=4, eos_token_id=np.int64(end))
    assert answer.tokens == free.index(end) + 1 and answer.ended_by == "end of text"

    monkey.processor.tokenizer.eos_token_id = end
    assert monkey.answer(*questions[0], max_new_tokens=4, eos_token_id=None).ended_by == "end of text"
