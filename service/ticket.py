"""Tickets that open an event stream where no header can be sent: an EventSource of a browser.

A ticket names its member, the member's home region and two instants: until when it may open a stream, and until when
that stream may last (as long as the token it was asked for with). Nodes sign it with their forward key. It opens one
stream on a node of the home region, which remembers those that were used while they could be used again.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from service.credential import Credentials, Principal
from shard_router.errors import MalformedIdError, ProblemError
from shard_router.member_id import format_member_id, parse_member_id

PARAMETER: Final = "ticket"
OPENS_FOR_S: Final = 30.0
LASTS_FOR_S: Final = 3_600.0
"""How long a stream of a credential without an end of its own lasts."""
_USED_MAX: Final = 100_000
_PARTS: Final = 6


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket says. Instants are seconds since 1970."""

    member_id: int
    region: str
    opens_until: float
    lasts_until: float
    nonce: str

    @property
    def message(self) -> str:
        """What is signed, and all of the text but the mark."""
        parts = (format_member_id(self.member_id), self.region, f"{self.opens_until:.0f}", f"{self.lasts_until:.0f}")
        return ".".join((*parts, self.nonce))

    @property
    def principal(self) -> Principal:
        """Who holds it: its member, until the stream's end."""
        name = format_member_id(self.member_id)
        return Principal(f"member:{name}", "member", member_id=self.member_id, expires_at=self.lasts_until)


class Tickets:
    """Issues tickets and lets each open one stream."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region
        self._used: dict[str, float] = {}

    def issue(self, principal: Principal) -> tuple[str, float]:
        """A ticket of a member for a stream of their own, and until when it opens one."""
        if principal.member_id is None:
            raise ProblemError("forbidden", "only a member's token gets a ticket")
        now = time.time()
        ends_at = principal.expires_at or now + LASTS_FOR_S
        ticket = Ticket(principal.member_id, self._region, now + OPENS_FOR_S, ends_at, secrets.token_hex(8))
        mark = self._credentials.sign(f"ticket {ticket.message}")
        if not mark:
            raise ProblemError("shard_unavailable", "the credentials document has no forward_keys to sign tickets with")
        return f"{ticket.message}.{mark}", ticket.opens_until

    def read(self, text: str) -> Ticket:
        """What a ticket says that may open a stream now; `unauthenticated` for any other text."""
        ticket = self._read(text)
        if ticket.opens_until < time.time() or ticket.nonce in self._used:
            raise ProblemError("unauthenticated", "this ticket is used or too old; ask for another one")
        return ticket

    def use(self, text: str) -> None:
        """Let a ticket open its one stream, in its own region."""
        ticket = self.read(text)
        if ticket.region != self._region:
            raise ProblemError("unauthenticated", "this ticket is of another region")
        self._forget()
        if len(self._used) >= _USED_MAX:
            raise ProblemError("overloaded", "too many streams were opened here just now")
        self._used[ticket.nonce] = ticket.opens_until

    def _read(self, text: str) -> Ticket:
        message, _, mark = text.rpartition(".")
        parts = message.split(".")
        if not self._credentials.is_signed(f"ticket {message}", mark) or len(parts) != _PARTS - 1:
            raise ProblemError("unauthenticated", "no valid ticket")
        name, region, opens_until, lasts_until, nonce = parts
        try:
            return Ticket(parse_member_id(name), region, float(opens_until), float(lasts_until), nonce)
        except (MalformedIdError, ValueError) as error:
            raise ProblemError("unauthenticated", "no valid ticket") from error

    def _forget(self) -> None:
        """Forget tickets that are too old to be used again; they were used in the order of their age, nearly."""
        now = time.time()
        while self._used and next(iter(self._used.values())) < now:
            del self._used[next(iter(self._used))]


TICKETS: Final = web.AppKey("tickets", Tickets)


def holder_of(request: web.Request) -> Principal | None:
    """Who holds the ticket a request shows instead of a credential; None when it shows none."""
    text = request.query.get(PARAMETER)
    if text is None or "Authorization" in request.headers:
        return None
    return request.app[TICKETS].read(text).principal


def use_ticket(request: web.Request) -> None:
    """Use up the ticket that a request shows, if it shows one instead of a credential."""
    text = request.query.get(PARAMETER)
    if text is not None and "Authorization" not in request.headers:
        request.app[TICKETS].use(text)
