"""What became of a command: a value, never an exception. A business "no" is stored and replayed like a "yes"."""

from dataclasses import field, replace
from datetime import datetime
from enum import StrEnum

from rules.detail import Detail, EntryDetail
from rules.document import Explained, ExplanationDocument, PurchaseDocument, ReceiptDocument, explanation
from rules.state import Account, Posting
from rules.value import value


@value
class Entry:
    """One entry of the journal: what happened, with its postings and the account after it.

    `points` is the entry's effect as a person reads it: positive earned or given back, negative spent or lost.
    `detail` holds what answers, reversals and explanations need later. `program_version`: the version in force at
    `occurred_at`, which decided; None: the one in force now.
    """

    kind: str
    occurred_at: datetime
    postings: tuple[Posting, ...]
    account: Account
    points: int
    store: str | None = None
    detail: Detail = field(default_factory=EntryDetail)
    program_version: int | None = None

    @property
    def version(self) -> int:
        """The member's version that this entry made."""
        return self.account.version

    def decided_by(self, version: int, *, in_force: int) -> "Entry":
        """The entry as decided by a version of the program, while another may be in force."""
        return self if version == in_force else replace(self, program_version=version)


@value
class Purchase:
    """A purchase as stored: its document holds lines, what each earned, what came back."""

    version: int
    receipt: ReceiptDocument
    occurred_at: datetime
    document: PurchaseDocument


@value
class Accepted:
    """The command's own entry, the purchase it made or changed, and why it earned what it did, campaign by campaign."""

    entry: Entry
    purchase: Purchase | None = None
    explained: tuple[Explained, ...] = ()

    @property
    def explanation(self) -> tuple[ExplanationDocument, ...]:
        """The same as API.md shows it."""
        return tuple(explanation(self.explained))


class Reason(StrEnum):
    """Why a command is refused: codes of API.md, each with its row in PROBLEMS."""

    HOLD_CLOSED = "hold_closed"
    HOLD_NOT_FOUND = "hold_not_found"
    INSUFFICIENT_POINTS = "insufficient_points"
    LIMIT_EXCEEDED = "limit_exceeded"
    MALFORMED = "malformed"
    MEMBER_CLOSED = "member_closed"
    MEMBER_EXISTS = "member_exists"
    MEMBER_NOT_FOUND = "member_not_found"
    NOT_FOUND = "not_found"
    OUT_OF_STOCK = "out_of_stock"
    PURCHASE_NOT_FOUND = "purchase_not_found"
    RATE_LIMITED = "rate_limited"
    RECEIPT_CONFLICT = "receipt_conflict"
    REDEMPTION_CLOSED = "redemption_closed"
    RETURN_EXCEEDS_PURCHASE = "return_exceeds_purchase"
    REWARD_NOT_FOUND = "reward_not_found"
    UNKNOWN_COUPON = "unknown_coupon"
    UNKNOWN_STORE = "unknown_store"


@value
class Refused:
    """Why not, in words a till can act on. `pointer` names the guilty part of the body.

    `wrong_guess`: it counts against the next guess (see guess). `retry_after_s`: when asking again makes sense.
    """

    reason: Reason
    detail: str
    pointer: str | None = None
    wrong_guess: bool = False
    retry_after_s: int | None = None


@value
class NothingToDo:
    """What was asked is as it should be already, by time or by an earlier command: no entry, and no "no" either."""


Outcome = Accepted | Refused | NothingToDo


@value
class Decision:
    """The outcome, what time alone had changed before it (`settled`, oldest first), and the account after all."""

    outcome: Outcome
    settled: tuple[Entry, ...]
    account: Account | None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything to append to the journal, in order."""
        return (*self.settled, self.outcome.entry) if isinstance(self.outcome, Accepted) else self.settled
