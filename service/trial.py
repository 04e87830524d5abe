"""What is known of a request on its way to other nodes: whether it may be sent again, and what no answer means."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from shard_router.errors import ProblemError


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
        unavailable = web.HTTPServiceUnavailable.status_code
        if self.may_be_done and isinstance(error, ProblemError) and error.problem.status == unavailable:
            raise ProblemError("unknown_outcome", error.detail) from error


NOT_ASKED: Final = Unanswered()
_NOTHING_DONE: Final = (b'"code":"shard_unavailable"', b'"code":"overloaded"')


@dataclass(slots=True)
class Trial:
    """One request on its way to some node of a region; `sent` once a node has it and did not answer."""

    request: web.Request
    region: str
    deadline: float
    body: bytes | None
    is_command: bool
    has_other: bool = False
    sent: bool = False
    declined: web.Response | None = None
    """What a node answered that did nothing and wants others to be asked."""

    @property
    def may_be_sent_again(self) -> bool:
        """A read, or a command whose key makes it safe."""
        return not self.is_command or "Idempotency-Key" in self.request.headers

    def failure(self, detail: str) -> ProblemError:
        """What no answer means."""
        return ProblemError("unknown_outcome" if self.sent and self.is_command else "shard_unavailable", detail)

    def declines(self, answer: web.Response, *, stops: bool) -> bool:
        """Whether a node that wants no more requests did nothing about this one, so that the next is asked."""
        refuses = stops and answer.status == web.HTTPServiceUnavailable.status_code
        if refuses and not self.sent and any(mark in bytes(answer.body or b"") for mark in _NOTHING_DONE):  # pyright: ignore[reportArgumentType]
            self.declined = answer
            return True
        return False

    def checked(self, answer: web.Response) -> web.Response:
        """The answer, unless it says that nothing was done and an earlier node may have done it."""
        if self.sent and self.is_command and answer.status == web.HTTPServiceUnavailable.status_code:
            raise self.failure("a node died before it answered")
        return answer
