"""Budget of a chat client, and delays that an endpoint requests; `test_chat` has a server."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.captions.composers.chat_client import Budget, BudgetExhausted, _retry_after


@settings(deadline=None)
@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40), st.floats(0, 1), st.booleans()), max_size=20),
)
def test_budget_holds_for_any_requests(limit, requests):
    budget, total = Budget(tokens=limit), 0
    for prompt, answer, share, free in requests:
        try:
            with budget.reserve(prompt, answer) as reservation:
                if free:
                    reservation.release()
                elif share < 0.8:
                    reservation.settle(prompt, int(share * answer))
        except BudgetExhausted:
            # Refused only if it might exceed the limit.
            assert total + prompt + answer > limit
            continue

        # Refused requests count nothing, those without reported usage their full reservation.
        total += 0 if free else prompt + (int(share * answer) if share < 0.8 else answer)
        assert budget.usage.tokens == total <= limit


def test_limit_in_dollars_without_prices_raises():
    with pytest.raises(ValueError, match="needs the model's prices"):
        Budget(dollars=1.0)


def test_retry_after_is_a_number_or_a_date():
    assert _retry_after({"retry-after": "2.5"}) == 2.5 and _retry_after({"retry-after": "-1"}) == 0
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0

    ahead = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 50 < _retry_after({"retry-after": ahead}) < 61
    assert _retry_after({}) is None and _retry_after({"retry-after": "soon"}) is None
