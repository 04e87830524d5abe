"""The exceptions that several folders raise and catch, and what each problem answers.

LoyaltyError
  MalformedIdError        an id, card or token that is not one of ours
  DocumentError           settings, or a document of the operator's, that cannot be used
    TopologyError           a topology document that cannot be used
  ProblemError            has an HTTP answer (RFC 9457): its code is a row of PROBLEMS
    SlotGivenError          an enrolment whose slot another shard has, or will have

A business "no" is no exception: its reason is a code of PROBLEMS too, see rules.outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

Given = ParamSpec("Given")
Parsed = TypeVar("Parsed")


class LoyaltyError(Exception):
    """Whatever this system itself raises."""


class MalformedIdError(LoyaltyError):
    """A text that is not an id, card number or token of ours."""


class DocumentError(LoyaltyError):
    """Settings, or a document of the operator's, that cannot be used; the message, one line, says why."""


class TopologyError(DocumentError):
    """A topology document that cannot be used."""


@dataclass(frozen=True, slots=True)
class Problem:
    """How a stable `code` is answered; `retryable` means: the same request may succeed later, unchanged.

    `advice` is the `detail` of an answer that has none of its own: what to do, where the title does not tell.
    """

    status: int
    title: str
    retryable: bool = False
    retry_after_s: int | None = None
    advice: str = ""

    @property
    def detail(self) -> str:
        """The `detail` of an answer that has none of its own."""
        return self.advice or self.title


PROBLEMS: Final[dict[str, Problem]] = {
    "malformed": Problem(400, "The request is malformed"),
    "idempotency_key_missing": Problem(400, "A command needs an Idempotency-Key"),
    "unauthenticated": Problem(401, "No valid credential"),
    "forbidden": Problem(403, "This credential may never do that"),
    "not_found": Problem(404, "There is nothing here"),
    "member_not_found": Problem(404, "No such member"),
    "purchase_not_found": Problem(404, "No such purchase"),
    "hold_not_found": Problem(404, "No such hold"),
    "reward_not_found": Problem(404, "No such reward"),
    "in_progress": Problem(
        409,
        "The first request with this key is still running",
        retryable=True,
        retry_after_s=1,
        advice="the first request with this key is still running: send the same again in a second, and hear its answer",
    ),
    "receipt_conflict": Problem(409, "This receipt was recorded with other content"),
    "member_exists": Problem(409, "There is a member with this identifier"),
    "hold_closed": Problem(409, "The hold was captured, voided or has lapsed"),
    "redemption_closed": Problem(409, "The redemption was used, cancelled or has ended"),
    "state_lost": Problem(409, "A restore took back the state this token is of"),
    "member_closed": Problem(409, "The membership is closed"),
    "too_large": Problem(413, "The request is too large"),
    "unsupported_media_type": Problem(415, "Send application/json"),
    "idempotency_key_reused": Problem(
        422,
        "This Idempotency-Key was used with another request",
        advice="an earlier request with other content had this key, and nothing was done now: a new command takes a "
        "new key; what became of the earlier one is told by GET /v1/commands/{idempotency_key}",
    ),
    "insufficient_points": Problem(422, "Not enough points"),
    "return_exceeds_purchase": Problem(422, "More would be returned than was bought"),
    "out_of_stock": Problem(422, "The reward is out of stock"),
    "limit_exceeded": Problem(422, "A limit of the program is reached"),
    "unknown_store": Problem(422, "The program has no such store"),
    "unknown_coupon": Problem(422, "No such coupon, or it is used or expired"),
    "rate_limited": Problem(429, "Too many requests", retryable=True, retry_after_s=1),
    "overloaded": Problem(503, "Too many commands are waiting", retryable=True, retry_after_s=1),
    "shard_unavailable": Problem(503, "The member's shard cannot be reached", retryable=True, retry_after_s=2),
    "unknown_outcome": Problem(
        503, "It is not known whether this was done: send the same key again", retryable=True, retry_after_s=2
    ),
    "not_yet_visible": Problem(503, "The demanded version is not visible yet", retryable=True, retry_after_s=1),
    "method_not_allowed": Problem(405, "This resource has no such method"),
    "internal": Problem(
        500,
        "A fault of ours",
        retryable=True,
        advice="a fault of ours: send it again, a command with the same key; should it stay, tell us the request_id",
    ),
}
"""Every code there is (API.md), with its answer: no refusal and no exception has another, and each is used."""


@dataclass(eq=False)
class ProblemError(LoyaltyError):
    """An answer that is not the one hoped for. Raised anywhere below a handler; one middleware renders it."""

    code: str
    detail: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    elsewhere: bool = False
    """Whether it is the trouble of this node alone: its connection ends with the answer, so that others are asked."""

    @property
    def problem(self) -> Problem:
        """The row of PROBLEMS."""
        return PROBLEMS[self.code]


class SlotGivenError(ProblemError):
    """`shard_unavailable` for an enrolment by an older topology, which did nothing: by the next one it may go on."""

    def __init__(self, detail: str) -> None:
        super().__init__("shard_unavailable", detail)


def parse_or(code: str, parse: Callable[Given, Parsed], *given: Given.args, **named: Given.kwargs) -> Parsed:
    """What a text says; the problem `code` when it is no id, card or token of ours."""
    try:
        return parse(*given, **named)
    except MalformedIdError as error:
        raise ProblemError(code) from error
