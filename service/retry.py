"""How often a node may ask another one again: a part of what it asks at all.

Where each request is tried at every node, a region whose nodes die gets its load several times over just then. The
source is gRPC's retry throttling (proposal A6) with the ratio of Google's SRE book (chapter 21): each request puts a
tenth of a token into a bucket, each retry takes one. Retries are then at most a tenth, but for a short burst.
"""

from typing import Final

from prometheus_client import Counter

RATIO: Final = 0.1
BURST_MAX: Final = 10.0
"""Tokens a bucket holds: what a quiet node may retry at once."""

RETRIES: Final = Counter(
    "loyalty_forward_retries",
    "Further nodes asked after one that took no connection, and those not asked because the budget was spent.",
    ["result"],
    registry=None,
)
_MADE: Final = RETRIES.labels("made")
_REFUSED: Final = RETRIES.labels("refused")


class RetryBudget:
    """The retries of one direction, say to one region."""

    def __init__(self) -> None:
        self._tokens = BURST_MAX

    def note_request(self) -> None:
        """Count a first attempt."""
        self._tokens = min(self._tokens + RATIO, BURST_MAX)

    def take(self) -> bool:
        """Whether another attempt may be made; it counts as made then."""
        # Ten tenths are a little less than one.
        allowed = self._tokens > 1 - RATIO / 2
        self._tokens -= allowed
        (_MADE if allowed else _REFUSED).inc()
        return allowed
