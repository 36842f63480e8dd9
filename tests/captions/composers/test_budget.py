"""Budget of a chat model: tokens and dollars, in one process and over restarts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeylib.captions.composers.budget import Budget, BudgetExhausted, Prices


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


def test_account_counts_over_restarts_and_a_killed_request_in_full(tmp_path):
    account = tmp_path / "spending.json"
    prices = Prices(1.0, 2.0)

    first = Budget(tokens=1000, prices=prices, account=account)
    with first.reserve(100, 50) as reservation:
        # Before anything is sent, the account holds what it may cost.
        assert json.loads(account.read_text())["running"]["prompt_tokens"] == 100
        reservation.settle(60, 20)
    assert first.usage.tokens == 80

    # A process that is killed while a request runs never settles it.
    killed = Budget(tokens=1000, prices=prices, account=account)
    killed.reserve(300, 200).__enter__()

    last = Budget(tokens=1000, prices=prices, account=account)
    assert last.earlier.tokens == 80 + 500 and last.usage.tokens == 0
    assert last.earlier.dollars == pytest.approx((60 + 2 * 20 + 300 + 2 * 200) / 1e6)
    with (
        pytest.raises(BudgetExhausted, match="580 tokens .* are spent, as spending.json says"),
        last.reserve(400, 21),
    ):
        pass
    with last.reserve(400, 20):
        pass
    assert Budget(account=account).earlier.tokens == 1000


def test_damaged_account_is_refused_and_left_alone(tmp_path):
    account = tmp_path / "spending.json"
    account.write_text("{")
    with pytest.raises(ValueError, match="spending.json should say what was spent"):
        Budget(tokens=10, account=account)
    assert account.read_text() == "{"


def test_request_that_cannot_be_noted_is_not_sent(tmp_path):
    budget = Budget(tokens=100, account=tmp_path / "spending.json" / "below-a-file")
    (tmp_path / "spending.json").write_text("")
    sent = False
    with pytest.raises(OSError), budget.reserve(1, 1):
        sent = True
    assert not sent and budget.usage.requests == 0


@pytest.mark.parametrize(("prompt", "completion"), [(-500, 1), (1, -500), (10**30, 1)])
def test_usage_that_cannot_be_true_counts_the_full_reservation(prompt, completion):
    budget = Budget(tokens=100)
    with budget.reserve(10, 5) as reservation:
        reservation.settle(prompt, completion)
    assert budget.usage.tokens == 15
