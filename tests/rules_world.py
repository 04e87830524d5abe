"""A member under the pure rules: every command goes through `decide`, and the books are checked after each."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import orjson

from rules.codec import COUNTED, parse_state, posting_document, state_row
from rules.command import (
    CaptureHold,
    Command,
    EnrolMember,
    Line,
    PlaceHold,
    Receipt,
    RecordPurchase,
    ReturnedLine,
    ReturnPurchase,
)
from rules.decide import Facts, decide
from rules.fold import FoldedEntry, fold
from rules.outcome import Accepted, Entry, NothingToDo, Purchase, Refused
from rules.program import Program, parse_program
from rules.state import Account, Bucket, Posting, TierStanding

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)  # a Sunday
MEMBER = 7
BY_TIME = {
    "hold_lapsed", "points_activated", "points_expired", "redemption_expired", "tier_changed", "tier_renewed"
}  # fmt: skip


def program(*parts: str, points: str = "", version: int = 1, zone: str = "UTC") -> Program:
    """A small program; `points` are lines of its [points] table, `parts` further tables."""
    head = f'[program]\ncode = "t"\nname = "T"\ncurrency = "EUR"\ntime_zone = "{zone}"\n'
    if not any("[transfers]" in part for part in parts):
        parts = (*parts, ANY_TRANSFER)
    stores = "".join(f'[[stores]]\ncode = "{code}"\nname = "S"\nregion = "eu"\n' for code in ("330", "331"))
    return parse_program("\n".join([head, f"[points]\n{points}", *parts, stores]), version)


ANY_TRANSFER = "[transfers]\nper_day = 0\nmin_account_days = 0\nonly_settled = false\n"

TIERS = """
[[tiers]]
code = "basic"
[[tiers]]
code = "silver"
threshold = 100
multiplier = "1.25"
[[tiers]]
code = "gold"
threshold = 300
multiplier = "1.5"
"""


def later(**delta: float) -> datetime:
    return NOW + timedelta(**delta)


def line(amount: int, quantity: Any = 1, category: str | None = None, sku: str = "a") -> Line:
    return Line(sku, Decimal(str(quantity)), amount, category)


@dataclass
class Member:
    """One member; `say` decides a command and keeps what came of it."""

    program: Program
    member_id: int = MEMBER
    account: Account | None = None
    journal: list[Entry] = field(default_factory=list)
    said: list[tuple[Command, Program, Facts]] = field(default_factory=list)
    purchases: dict[int, Purchase] = field(default_factory=dict)
    explanation: tuple[dict[str, Any], ...] = ()
    referrer: int | None = None

    def __post_init__(self) -> None:
        self.ok(EnrolMember(self.member_id, "card", NOW - timedelta(days=800), {}, referrer=self.referrer))

    @property
    def now(self) -> Account:
        assert self.account is not None
        return self.account

    def say(self, command: Command, **facts: Any) -> Entry | Refused | NothingToDo:
        given = Facts(**facts)
        self.said.append((command, self.program, given))
        decision = decide(self.account, command, self.program, given)
        self.journal += decision.entries
        if isinstance(decision.outcome, Accepted) and decision.outcome.purchase:
            document = orjson.loads(orjson.dumps(decision.outcome.purchase.document))
            self.purchases[decision.outcome.purchase.version] = replace(decision.outcome.purchase, document=document)
        self.account = stored(decision.account)
        check_books(self.journal, self.account)
        if not isinstance(decision.outcome, Accepted):
            return decision.outcome
        self.explanation = decision.outcome.explanation
        return decision.outcome.entry

    def ok(self, command: Command, **facts: Any) -> Entry:
        entry = self.say(command, **facts)
        assert isinstance(entry, Entry), entry
        return entry

    def idle(self, command: Command, **facts: Any) -> bool:
        """Whether there was nothing to do, and nothing was done."""
        before = self.account
        return isinstance(self.say(command, **facts), NothingToDo) and self.account == before

    def refused(self, command: Command, **facts: Any) -> str:
        before = self.account
        refusal = self.say(command, **facts)
        assert isinstance(refusal, Refused), refusal
        assert before is None or self.now.version >= before.version
        return refusal.reason

    def buy(self, *lines: Line, at: datetime = NOW, received_at: datetime | None = None, **more: Any) -> Entry:
        facts = {name: more.pop(name) for name in ("birth_date", "holds_existed") if name in more}
        return self.ok(purchase(*lines, at=at, received_at=received_at, **more), **facts)

    def bring_back(
        self, version: int, *lines: tuple[int, Any], at: datetime | None = None, received_at: datetime | None = None
    ) -> Entry:
        owed = next(entry for entry in self.journal if entry.version == version).detail.get("referral")
        back = returned(version, *lines, at=received_at or at)
        return self.ok(back, purchase=self.purchases[version], referral=owed)

    def bring_all_back(self, version: int, at: datetime | None = None) -> Entry:
        lines = self.purchases[version].document["lines"]
        left = [(one["line"], Decimal(one["quantity"]) - Decimal(one["returned"])) for one in lines]
        return self.bring_back(version, *[(number, quantity) for number, quantity in left if quantity], at=at)

    def why(self, campaign: str) -> str:
        return next(one["why"] for one in self.explanation if one["campaign"] == campaign).split(":")[0]


def purchase(
    *lines: Line, at: datetime = NOW, received_at: datetime | None = None, store: str = "330", **more: Any
) -> RecordPurchase:
    currency = more.pop("currency", "EUR")
    return RecordPurchase(Receipt(store, "1", "r"), currency, lines, at, received_at or at, **more)


def returned(version: int, *lines: tuple[int, Any], at: datetime | None = None) -> ReturnPurchase:
    back = tuple(ReturnedLine(number, Decimal(str(quantity))) for number, quantity in lines)
    return ReturnPurchase(version, Receipt("330", "1", "back"), back, at or NOW, at or NOW)


def earned(entry: Entry) -> dict[str, int]:
    """Points from the program by reason."""
    return {posting.reason: posting.points for posting in entry.postings if posting.source == "program"}


def moves(entry: Entry) -> list[tuple[int, str, str]]:
    return [(posting.points, str(posting.source), str(posting.target)) for posting in entry.postings]


def stored(account: Account | None) -> Account | None:
    """The account as it comes back from the database."""
    if account is None:
        return None
    document = orjson.loads(orjson.dumps(state_row(account)))
    totals = {name: getattr(account, name) for name in ("spent", "expired", "debt", "issued")}
    read = partial(parse_state, account.member_id, version=account.version, status=account.status, totals=totals)
    again = read(document)
    assert again == account == read(earlier_state(document))
    return replace(again, incarnation=account.incarnation)


def earlier_state(row: list[Any]) -> dict[str, Any]:
    """The state of an account as earlier versions stored it."""
    code, since, until, changed_at, lots, *more = row
    rest = more.pop() if len(more) > len(COUNTED) else {}
    since, until, changed_at = (None if at is None else _text_of(at) for at in (since, until, changed_at))
    common = {name: value for name, value in zip(COUNTED, more, strict=False) if value is not None}
    document = {"tier": [code, since, until], "changed_at": changed_at, "lots": lots, **rest}
    document["counters"] = common | rest.get("counters", {})
    return {name: value for name, value in document.items() if value}


def _text_of(micros: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")


def check_books(journal: list[Entry], account: Account | None) -> None:
    """Postings sum to zero with the issuer, no bucket is negative, and the account is the fold of its journal."""
    if account is None or not journal:
        return
    assert account.due_at is None or account.due_at > account.changed_at  # nothing outlives its instant
    by_time = [entry.occurred_at for entry in journal if entry.kind in BY_TIME]
    assert by_time == sorted(by_time)
    assert not [posting for entry in journal for posting in entry.postings if _moves_expired_points(entry, posting)]
    buckets = account.available + account.pending + account.held + account.spent + account.expired - account.debt
    assert account.issued == buckets
    assert min(account.available, account.pending, account.held, account.spent, account.expired, account.debt) >= 0
    first = journal[0].account
    blank = Account(account.member_id, first.changed_at, TierStanding(first.tier.code, first.tier.since))
    documents = [(entry, [posting_document(posting) for posting in entry.postings]) for entry in journal]
    folded = fold(
        blank,
        [
            FoldedEntry(entry.version, entry.kind, orjson.loads(orjson.dumps(postings)), entry.detail)
            for entry, postings in documents
        ],
    )
    assert folded == replace(account, changed_at=first.changed_at, counters={})


def _moves_expired_points(entry: Entry, posting: Posting) -> bool:
    at = entry.occurred_at if entry.kind in BY_TIME else entry.account.changed_at
    expired = posting.expires_at is not None and posting.expires_at <= at
    if posting.target is Bucket.DEBT and any(one.source is Bucket.HELD for one in entry.postings):
        return False  # a hold kept them from it
    return expired and posting.source is Bucket.AVAILABLE and posting.target is not Bucket.EXPIRED


def policy(**keys: str) -> str:
    return "[tier_policy]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def spend(member: Member, points: int) -> None:
    hold = member.ok(PlaceHold(points, None, NOW)).version
    member.ok(CaptureHold(hold, None, NOW))


def campaign(code: str, effect: str, **keys: str) -> str:
    return f'[[campaigns]]\ncode = "{code}"\neffect = {{ {effect} }}\n' + "".join(
        f"{key} = {value}\n" for key, value in keys.items()
    )
