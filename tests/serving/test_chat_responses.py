"""White space around an answer that is sent part by part."""

import doctest

from monkeylib.serving import chat_responses


def test_white_space_goes_with_what_follows_it():
    assert doctest.testmod(chat_responses).failed == 0
