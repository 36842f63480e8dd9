"""Delays that an endpoint requests; `test_chat` has a server."""

import time

from monkeylib.captions.composers.chat_client import _retry_after


def test_retry_after_is_a_number_or_a_date():
    assert _retry_after({"retry-after": "2.5"}) == 2.5 and _retry_after({"retry-after": "-1"}) == 0
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0

    ahead = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 50 < _retry_after({"retry-after": ahead}) < 61
    assert _retry_after({}) is None and _retry_after({"retry-after": "soon"}) is None
