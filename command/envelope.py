"""A command on its way: what is asked, for whom, under which key, and until when an answer is of use."""

from collections.abc import Callable
from dataclasses import KW_ONLY
from datetime import date, datetime
from typing import Final

import orjson

from command.fingerprint import NO_FINGERPRINT, Fingerprint
from rules.command import Command, RecordPurchase, ReturnPurchase
from rules.outcome import Reason
from rules.program import Program
from rules.value import value

NO_DATE: Final = date(1970, 1, 1)
"""Of documents that are named uniquely without one."""
_REFUSED_FROM: Final = 400
"""Statuses from this one on are refusals."""

ReceiptName = tuple[str, str, date, str, str, str]
"""Store, till, business date, receipt, kind and subject."""


@value
class ReceiptKey:
    """The permanent natural key of a till's document but for its date, and the fingerprint of its content.

    The program that decides it tells the business date of `occurred_at`. `subject` is what a return is of: the
    purchase, as `<member>-<version>`.
    """

    store: str
    till: str
    receipt: str
    kind: str
    fingerprint: Fingerprint
    subject: str = ""
    occurred_at: datetime | None = None

    def dates(self, program: Program) -> tuple[date, ...]:
        """The business date, then others that the document may have been recorded under (see Program)."""
        return program.receipt_dates(self.store, self.occurred_at) if self.occurred_at else (NO_DATE,)

    def on(self, business_date: date, subject: str | None = None) -> ReceiptName:
        """The key itself, perhaps with another subject."""
        subject = self.subject if subject is None else subject
        return self.store, self.till, business_date, self.receipt, self.kind, subject


@value
class Envelope:
    """One command with what surrounds it.

    `region` (empty: the node's own) and `slot` decide the lane. Of `member_id` and `identifier` (kind, value) one names
    the member; `reference` is the version of the entry the command refers to. `taken` are the kinds of a new member's
    identifiers that others have. `came_back`: one who left lately was found by any of them. `deadline` is a monotonic
    instant. `key` is None for settler and courier. A refusal for the reason `not_final` is not stored: the caller does
    something about it and runs the command again. `holds_of` is the member whose holds the command names: of another
    one they do not exist. `store`: the one that the credential is bound to. Without `stores_refusal` a "no" is not
    stored (see refusal). `is_left`: whoever asked has gone.
    """

    _: KW_ONLY
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
    came_back: bool = False
    not_final: Reason | None = None
    holds_of: int | None = None
    store: str | None = None
    stores_refusal: bool = True
    is_left: Callable[[], bool] = lambda: False
    region: str = ""

    @property
    def lines(self) -> int:
        """How many lines of goods the command has."""
        return len(self.command.lines) if isinstance(self.command, (RecordPurchase, ReturnPurchase)) else 0


@value
class Answer:
    """What goes back: a status, the JSON bytes, and the member's version it speaks of (None for most refusals).

    `not_final`: the caller may do something about it; nothing was stored. `retry_after_s`: of a "no" for now.
    `stored`: the bytes to keep under the key, where they are others.
    """

    status: int
    body: bytes
    member_id: int | None = None
    version: int | None = None
    replayed: bool = False
    not_final: bool = False
    retry_after_s: int | None = None
    stored: bytes | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether it is a "no"."""
        return self.status >= _REFUSED_FROM

    @property
    def code(self) -> str | None:
        """The code of a refusal; None for a yes."""
        return orjson.loads(self.body)["code"] if self.is_refusal else None
