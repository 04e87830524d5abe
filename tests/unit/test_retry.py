"""Retries between nodes: a tenth of the requests, and a short burst."""

from service.retry import BURST_MAX, RetryBudget


def retries(budget: RetryBudget, *, requests: int) -> int:
    """How many are made when each request would like to be tried once more."""
    made = 0
    for _ in range(requests):
        budget.note_request()
        made += budget.take()
    return made


def test_a_quiet_node_retries_at_once_what_little_it_asks() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(int(BURST_MAX) + 1)] == [True] * int(BURST_MAX) + [False]


def test_where_every_request_fails_a_tenth_is_tried_again() -> None:
    budget = RetryBudget()
    retries(budget, requests=100)  # the burst is over
    assert retries(budget, requests=1_000) == 100


def test_what_went_well_gives_retries_back_up_to_the_burst() -> None:
    budget = RetryBudget()
    retries(budget, requests=100)
    for _ in range(1_000):
        budget.note_request()
    assert sum(budget.take() for _ in range(100)) == int(BURST_MAX)
