"""A command on its way: what is asked, for whom, under which key, and until when an answer is of use."""

from dataclasses import dataclass
from datetime import date

from command.fingerprint import NO_FINGERPRINT, Fingerprint
from rules.command import Command


@dataclass(frozen=True, slots=True)
class ReceiptKey:
    """The permanent natural key of a till's document, and the fingerprint of its content without the member."""

    store: str
    till: str
    business_date: date
    receipt: str
    kind: str
    fingerprint: Fingerprint

    @property
    def name(self) -> tuple[str, str, date, str, str]:
        """The key itself."""
        return self.store, self.till, self.business_date, self.receipt, self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One command with what surrounds it.

    `slot` decides the lane. Of `member_id` and `identifier` (kind, value) one names the member; `reference` is the
    version of the entry the command refers to. `taken` are the kinds of a new member's identifiers that others have.
    `deadline` is a monotonic instant. `key` is None for settler and courier. With `may_fetch_stock` an `out_of_stock`
    is not final: it is not stored, and the caller fetches stock and runs the command again. `holds_of` is the member
    whose holds the command names: of another one they do not exist.
    """

    command: Command
    slot: int
    deadline: float
    request_id: str
    credential: str
    key: str | None = None
    fingerprint: Fingerprint = NO_FINGERPRINT
    member_id: int | None = None
    identifier: tuple[str, str] | None = None
    reference: int | None = None
    receipt: ReceiptKey | None = None
    taken: tuple[str, ...] = ()
    may_fetch_stock: bool = False
    holds_of: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: a status, the JSON bytes, and the member's version it speaks of (None for most refusals).

    `not_final`: more stock may be had; nothing was stored.
    """

    status: int
    body: bytes
    member_id: int | None = None
    version: int | None = None
    replayed: bool = False
    not_final: bool = False
