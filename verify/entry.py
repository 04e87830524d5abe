"""Holds one entry against itself: its points and detail against its postings, the account it shows, its answer.

What an answer says is written down here once more, apart from the write side that makes it.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Final

from rules.codec import instant_text
from rules.describe import describe_account
from rules.detail import DETAILS
from rules.state import Account
from service.stored_answer import OWN_WORDS, is_shortened
from verify.books import ANSWERS, EFFECT, RULED, SHOWN, Books, MemberRows, ReadEntry
from verify.stream import Row, attempt, parsed

_REFUSED: Final = 400

_POINTS: Final[dict[str, tuple[str, ...]]] = {
    "member_enrolled": (),
    "identifiers_changed": (),
    "member_closed": ("-forfeited",),
    "purchase_recorded": ("+program>", "->spent"),
    "purchase_returned": ("+spent>", "->program", "+expired>program"),
    "points_adjusted": ("+program>", "->program"),
    "referral_credited": ("+program>",),
    "referral_returned": ("->program", "+expired>program"),
    "hold_placed": ("->held",),
    "hold_captured": ("+held>available",),
    "hold_voided": ("+held>available",),
    "hold_lapsed": ("+held>available",),
    "reward_redeemed": ("->spent",),
    "redemption_used": (),
    "redemption_cancelled": ("+spent>",),
    "redemption_expired": (),
    "transfer_sent": ("->held",),
    "transfer_received": ("+program>",),
    "transfer_settled": (),
    "transfer_cancelled": ("+held>available",),
    "transfer_returned": ("+spent>",),
    "transfer_revoked": ("->program",),
    "points_activated": ("+pending>available",),
    "points_expired": ("->expired",),
    "tier_changed": (),
    "tier_renewed": (),
}
"""What `points` of each kind of entry counts: ways of its postings that add or take (see moved_points)."""

_DETAIL: Final[dict[str, dict[str, str]]] = {
    "member_closed": {"forfeited": "forfeited", "written_off": "program>debt"},
    "purchase_recorded": {"points_earned": "program>", "points_paid": ">spent", "released": "held>available"},
    "purchase_returned": {"points_reversed": ">program", "points_returned": "spent>"},
    "hold_placed": {"held": ">held"},
    "hold_captured": {"captured": "held>spent", "released": "held>available"},
    "hold_voided": {"released": "held>available"},
    "reward_redeemed": {"redeemed": ">spent"},
    "transfer_sent": {"sent": ">held"},
    "transfer_settled": {"settled": "held>spent"},
    "transfer_cancelled": {"released": "held>available"},
    "transfer_returned": {"returned": "spent>"},
    "transfer_revoked": {"revoked": ">program"},
}
"""Which points of an entry's detail are which way of its postings."""

_TOLD_TOO: Final = {"hold_captured": {"captured", "released"}, "hold_voided": {"released"}}
_ALWAYS_TOLD: Final = {
    kind: layout.__required_keys__ | _TOLD_TOO.get(kind, frozenset()) for kind, layout in DETAILS.items()
}
"""Keys of an entry's detail that are never missing: answers and later commands read them."""
_NAMES_ITSELF: Final = {"hold_placed": "hold", "reward_redeemed": "redemption", "transfer_sent": "transfer"}
"""Where an entry tells its own version."""
_ENDS_HOLD: Final = frozenset({"hold_captured", "hold_voided", "hold_lapsed"})
_NOT_TOLD: Final = {
    "purchase_recorded": ("points_earned", "program>", 1),
    "purchase_returned": ("points_reversed", ">program", -1),
}
"""What is told only where it is not the entry's points, or those below zero."""

SLACK: Final = timedelta(hours=1)
"""Clocks of nodes and servers differ, and a new version waits for a standby before it is seen."""

NOTHING: Final = frozenset[str]()
COUNTED_FIELDS: Final = frozenset({"qualifying_points", "next"})
"""Of a shown account, what hangs on counters: only those after the last entry are known."""
_ALWAYS_SHOWN: Final = frozenset(
    {"member_id", "version", "balance", "tier", "available", "pending", "held", "debt", "code"}
)
"""Entries of old may lack what an account shows since, but never these."""


def check_effect(books: Books, entry: ReadEntry) -> None:
    """Check an entry's points, and those its detail tells, against its postings."""
    finding, kind = books[EFFECT], entry.kind
    finding.checked += 1
    if kind not in _POINTS:
        finding.fault(f"{entry.name}: no such kind of entry as {kind}")
        return
    if missing := _ALWAYS_TOLD[kind] - entry.detail.keys():
        finding.fault(f"{entry.name}: tells no {', '.join(sorted(missing))}")
        return
    told = {"points": (entry.row["points"], _sum(_POINTS[kind], entry))}
    for name, way in _DETAIL.get(kind, {}).items():
        if name in entry.detail:
            told[name] = entry.detail[name], entry.moved[way]
    told |= attempt(finding, entry.name, _told_apart, entry) or {}
    for name, (says, should) in told.items():
        if says != should:
            finding.fault(f"{entry.name}: {name} says {says}, the postings of this {kind} {should}")
            return


def _told_apart(entry: ReadEntry) -> dict[str, tuple[Any, Any]]:
    """What an answer made from an entry says beside that: its own name, the hold that ended, points of a basket."""
    detail, kind = entry.detail, entry.kind
    told: dict[str, tuple[Any, Any]] = {}
    if name := _NAMES_ITSELF.get(kind):
        told[name] = detail[name], entry.version
    if kind in _ENDS_HOLD:
        ended = {one.get("hold") for one in entry.postings if one["from"] == "held" != one["to"]}
        told["hold"] = {detail["hold"]}, ended
    if kind in _NOT_TOLD and entry.is_short:
        name, way, sign = _NOT_TOLD[kind]
        told[name] = detail.get(name, sign * entry.row["points"]), entry.moved[way]
    if kind == "purchase_recorded" and "released" in detail:
        told["captured"] = sum(one["points"] for one in detail["captured"]), entry.moved["held>spent"]
    return told


def _sum(terms: tuple[str, ...], entry: ReadEntry) -> int:
    return sum(entry.moved[term[1:]] if term[0] == "+" else -entry.moved[term[1:]] for term in terms)


def check_shown(books: Books, entry: ReadEntry, account: Account, hidden: frozenset[str]) -> None:
    """Check the account an entry shows against what it was then, except for the `hidden` fields."""
    finding, shown = books[SHOWN], entry.account_after
    version = entry.detail.get("shown_by", entry.row["program_version"])
    program = books.programs.get(version)
    if program is None:
        finding.fault(f"{entry.name}: shown under program {version}, which is not on this shard")
        return
    should: Any = describe_account(account, program, _member(entry))
    should["as_of"] = instant_text(entry.row["recorded_at"])
    should["tier"].update({name: shown["tier"].get(name) for name in hidden})
    difference = _difference(shown, should)
    if difference:
        finding.fault(f"{entry.name}: {difference}")


def check_ruling(books: Books, entry: ReadEntry) -> None:
    """Check that an entry was decided by what was in force when it happened; earlier releases: when it was recorded."""
    finding = books[RULED]
    finding.checked += 1
    if books.in_force is None:
        return
    moments = entry.row["occurred_at"], entry.row["recorded_at"]
    first, last = (books.in_force.at(moment).version for moment in (min(moments) - SLACK, max(moments) + SLACK))
    if not first <= entry.row["program_version"] <= last:
        told = f"{first} to {last}" if first < last else f"{first}"
        finding.fault(f"{entry.name}: decided by program {entry.row['program_version']}, in force was {told}")


def _difference(shown: Any, should: Any, path: str = "account") -> str | None:
    """Where what is shown is not what it should be; fields that came later may be missing."""
    if shown == should:
        return None
    if not isinstance(shown, dict) or not isinstance(should, dict):
        return f"{path} is shown as {shown}, it was {should}"
    for key in shown.keys() | (_ALWAYS_SHOWN & should.keys()):
        difference = _difference(shown.get(key), should.get(key), f"{path}.{key}")
        if difference:
            return difference
    return None


Getter = Callable[[ReadEntry], Any]


def _member(entry: ReadEntry) -> str:
    return entry.name.partition("-")[0]


def _made(kind: str) -> Getter:
    return lambda entry: f"{kind}_{entry.name}"


def _named(kind: str, detail: str) -> Getter:
    return lambda entry: f"{kind}_{_member(entry)}-{entry.detail[detail]}"


def _told(detail: str) -> Getter:
    return lambda entry: entry.detail[detail]


def _earned(entry: ReadEntry) -> int:
    return entry.moved["program>"]


def _reversed(entry: ReadEntry) -> int:
    return entry.moved[">program"]


def _postings(entry: ReadEntry) -> list[dict[str, Any]]:
    return entry.postings


def _erased_at(entry: ReadEntry) -> str | None:
    return instant_text(entry.row["recorded_at"])


_ANSWERS: Final[dict[str, dict[str, Getter]]] = {
    "member_enrolled": {"member_id": _member},
    "identifiers_changed": {"member_id": _member, "entry_id": _made("ent")},
    "member_closed": {"member_id": _member, "erased_at": _erased_at},
    "purchase_recorded": {
        "purchase_id": _made("pur"), "entry_id": _made("ent"), "points_earned": _earned, "postings": _postings,
    },
    "purchase_returned": {
        "return_id": _made("ret"), "entry_id": _made("ent"), "points_reversed": _reversed, "postings": _postings,
    },
    "points_adjusted": {"entry_id": _made("ent"), "postings": _postings},
    "hold_placed": {"hold_id": _made("hld"), "points": _told("held"), "expires_at": _told("expires_at")},
    "hold_captured": {"hold_id": _named("hld", "hold"), "captured": _told("captured"), "released": _told("released")},
    "hold_voided": {"hold_id": _named("hld", "hold"), "released": _told("released")},
    "reward_redeemed": {"redemption_id": _made("red"), "code": _told("code"), "points": _told("redeemed")},
    "redemption_used": {"redemption_id": _named("red", "redemption"), "status": _told("status")},
    "redemption_cancelled": {"redemption_id": _named("red", "redemption"), "status": _told("status")},
    "transfer_sent": {"transfer_id": _made("trf"), "entry_id": _made("ent")},
}  # fmt: skip
"""What the answer to a command says of its entry, beside the account; no other kind of entry has an answer."""


_OF_HOLDS: Final[dict[str, Getter]] = {
    "captured": lambda entry: entry.moved["held>spent"],
    "released": lambda entry: entry.moved["held>available"],
}
"""What the answer to a purchase says of the holds it named; entries of old tell nothing of what they released."""

_OF_OFFERS: Final[dict[str, Getter]] = {"not_applied": lambda entry: entry.detail.get("not_applied")}
"""What the answer to a purchase says of campaigns and coupons; answers of old say nothing of them."""


def check_answers(books: Books, rows: MemberRows) -> None:
    """Check the stored answers of a member: all that they say must be in the entry they name."""
    finding = books[ANSWERS]
    finding.checked += len(rows.answers)
    unreadable = {row["version"] for row in rows.journal} - rows.entries.keys()
    for answer in rows.answers:
        if answer["version"] in unreadable:
            continue
        entry = rows.entries.get(answer["version"])
        name = f"key {answer['key']}: entry {rows.name}-{answer['version']}"
        wrong = partial(next, _wrong_in_answer(answer, entry), None)
        difference = attempt(finding, name, wrong)
        if difference:
            finding.fault(f"{name}: {difference}")


def _wrong_in_answer(answer: Row, entry: ReadEntry | None) -> Iterator[str]:
    if entry is None:
        yield "is not in the journal"
        return
    if entry.kind not in _ANSWERS:
        yield f"a {entry.kind} answers nobody"
        return
    if answer["status"] >= _REFUSED:
        yield f"is answered with status {answer['status']}"
    document = parsed(answer["answer"], dict)
    if not document and entry.kind not in OWN_WORDS:
        return  # made from the entry
    fields = dict(_ANSWERS[entry.kind])
    if entry.kind == "purchase_recorded":
        fields |= _OF_HOLDS if "released" in entry.detail else {}
        fields |= _OF_OFFERS if "not_applied" in entry.detail or document.get("not_applied") else {}
    if entry.kind != "member_closed":
        fields["account"] = _account_after
    for name, getter in fields.items():
        if not is_shortened(document, name) and (name not in document or document[name] != getter(entry)):
            yield f"{name} is answered as {_short(document.get(name))}, not {_short(getter(entry))}"


def _account_after(entry: ReadEntry) -> dict[str, Any]:
    return entry.account_after


def _short(value: Any) -> str:
    return f"{value}"[:60]
