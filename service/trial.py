"""What is known of a request on its way to other nodes: whether it may be sent again, and what no answer means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiohttp import web

from shard_router.errors import ProblemError

PASSED_BACK: Final = (
    "Content-Type", "Consistency-Token", "Idempotent-Replayed", "ETag", "Loyalty-Region", "Loyalty-Source",
    "Retry-After", "WWW-Authenticate", "Cache-Control", "X-Accel-Buffering", "Content-Encoding", "Vary",
)  # fmt: skip
"""Headers of an answer that go on to whoever asked."""
_UNAVAILABLE: Final = 503


class NodeAnswer(NamedTuple):
    """What another node has answered; `headers` are those passed back, `stops`: it wants no more requests."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    stops: bool

    def response(self) -> web.Response:
        """The same to whoever asked."""
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A command that no other node has answered, so that this one is to serve it. It may be done already.

    Within its block nobody is told that nothing was done, when a node may have done it before it died.
    """

    may_be_done: bool = False

    def __enter__(self) -> None:
        """Begin to serve it."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Tell what cannot be known."""
        if self.may_be_done and isinstance(error, ProblemError) and error.problem.status == _UNAVAILABLE:
            raise ProblemError("unknown_outcome", error.detail) from error


NOT_ASKED: Final = Unanswered()
_NOTHING_DONE: Final = (b'"code":"shard_unavailable"', b'"code":"overloaded"')


class Tried(NamedTuple):
    """What came of a request that was handed on before the usual way has it: this node is to answer by `deadline`."""

    deadline: float
    """A monotonic instant."""
    unanswered: Unanswered = NOT_ASKED


@dataclass(slots=True)
class Trial:
    """One request on its way to some node of a region; `sent` once a node has it and did not answer.

    `headers` are all that go along, but for the time that is left.
    """

    region: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    deadline: float
    is_command: bool
    has_other: bool = False
    sent: bool = False
    declined: NodeAnswer | None = None
    """What a node answered that did nothing and wants others to be asked."""

    @property
    def may_be_sent_again(self) -> bool:
        """A read, or a command whose key makes it safe."""
        return not self.is_command or "Idempotency-Key" in self.headers

    def failure(self, detail: str) -> ProblemError:
        """What no answer means."""
        return ProblemError("unknown_outcome" if self.sent and self.is_command else "shard_unavailable", detail)

    def declines(self, answer: NodeAnswer) -> bool:
        """Whether a node that wants no more requests did nothing about this one, so that the next is asked."""
        refuses = answer.stops and answer.status == _UNAVAILABLE
        if refuses and not self.sent and any(mark in answer.body for mark in _NOTHING_DONE):
            self.declined = answer
            return True
        return False

    def checked(self, answer: NodeAnswer) -> NodeAnswer:
        """The answer, unless it says that nothing was done and an earlier node may have done it."""
        if self.sent and self.is_command and answer.status == _UNAVAILABLE:
            raise self.failure("a node died before it answered")
        return answer
