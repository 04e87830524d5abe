"""The short form in which documents are stored: values in a fixed order, and nothing said that is known without it.

A document is an object where people and programs read it, and a list where it is stored: a journal is written for every
purchase, and most of what an object says are its names. What an earlier version has stored is an object and is read as
it is. A list may grow at its end, and what is empty there is left out; so it is read with the defaults of its end.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, cast

from rules.codec import instant_text
from rules.document import (
    APPLIED,
    AccountDocument,
    BalanceDocument,
    CountedDocument,
    ExplanationDocument,
    LineDocument,
    NotAppliedDocument,
    PostingDocument,
    PurchaseDocument,
    explanation_of,
)

_WHYS: Final[Mapping[str, tuple[str, str]]] = {
    "no_line": ("no line matches", ""),
    "no_points": ("less than one point", ""),
    "first_purchase": ("only on the first purchase", ""),
    "weekday": ("not on ", ""),
    "time": ("not at ", ""),
    "tier": ("not for tier ", ""),
    "store": ("not in store ", ""),
    "min_amount": ("", " minor units in money"),
    "birthday": ("only within ", " days of the birthday"),
}
"""How the commonest reasons go on after their code, and how they end. These stay; a new text gets a new code."""
_INITIALS: Final[Mapping[str, str]] = {
    "no_line": "l",
    "no_points": "p",
    "first_purchase": "f",
    "weekday": "d",
    "time": "h",
    "tier": "t",
    "store": "s",
    "min_amount": "a",
    "birthday": "b",
}
"""What stands for their codes: a purchase tells of each campaign why it gave nothing. Codes in full are read too."""
_CODES: Final[Mapping[str, str]] = {initial: code for code, initial in _INITIALS.items()}
_WHYS_KEPT: Final = 4096
"""Most purchases miss the same campaigns for the same reasons."""
_FIRST: Final = True
"""In place of the next change: it comes with the first points that expire."""
_BALANCE_PARTS: Final = 7
_POSTING: Final = ("points", "from", "to", "reason", "expires_at", "available_at", "hold", "expires_before")
_POSTING_ALWAYS: Final = 5
_COUNTED: Final = ("day", "applied", "applied_on", "metric", "unsettled")
_COUNTED_ALWAYS: Final = 3
_COUNTED_LEAST: Final = frozenset(_COUNTED[:_COUNTED_ALWAYS])
_COUNTED_MOST: Final = frozenset(_COUNTED)
_PURCHASE: Final = ("currency", "amount", "money", "points_earned", "expires_at", "available_at")
_LINE_PARTS: Final = 5
"""Of most lines: the sixth is of what came back, or of what points paid."""
_REASONS: Final = len(_PURCHASE) + 1
_REST: Final = ("coupons", "home", "payment", "rounded_once")
_EMPTY: Final = (None, [], {})
_NOTHING: Final = (None,) * 6
"""In place of the end that a stored list is without."""


def short_postings(postings: Sequence[PostingDocument]) -> list[list[Any]]:
    """Postings as they are stored."""
    return [_trimmed([*map(posting.get, _POSTING)], _POSTING_ALWAYS) for posting in postings]


def full_postings(stored: Sequence[Any]) -> list[PostingDocument]:
    """Stored postings as API.md shows them."""
    return [cast("PostingDocument", one) if isinstance(one, dict) else _posting(one) for one in stored]


def _posting(row: Sequence[Any]) -> PostingDocument:
    points, source, target, reason, expires_at, *more = row
    posting: Any = {"points": points, "from": source, "to": target, "expires_at": expires_at, "reason": reason}
    if more:
        named = zip(_POSTING[_POSTING_ALWAYS:], more, strict=False)
        posting.update((name, value) for name, value in named if value is not None)
    return posting


def short_account(account: AccountDocument) -> list[Any]:
    """An account as it is stored with its entry, which knows the member, the version and the instant."""
    balance, tier, following = account["balance"], account["tier"], account["tier"]["next"]
    expiring = [part for one in balance["expiring"] for part in (one["points"], one["at"])]
    next_change = balance["next_change_at"]
    return [
        *(balance["available"], balance["pending"], balance["held"], balance["debt"], balance["lifetime"], expiring),
        _FIRST if expiring and next_change == expiring[1] else next_change,
        *(tier["code"], tier["name"], tier["qualifying_points"], tier["since"], tier["until"]),
        *((following["code"], following["points_needed"]) if following else ()),
    ]


def full_account(stored: Any, *, member: str, version: int, as_of: datetime | str) -> AccountDocument:
    """A stored account as API.md shows it; `member` is the text form of the id, `as_of` when its entry was recorded."""
    if not isinstance(stored, list):
        return stored
    code, name, points, since, until, *following = stored[_BALANCE_PARTS:]
    return {
        "member_id": member,
        "version": version,
        "balance": full_balance(stored),
        "tier": {
            "code": code,
            "name": name,
            "qualifying_points": points,
            "since": since,
            "until": until,
            "next": {"code": following[0], "points_needed": following[1]} if following else None,
        },
        "as_of": instant_text(as_of) if isinstance(as_of, datetime) else as_of,
    }


def full_balance(stored: Any) -> BalanceDocument:
    """The balance of a stored account alone: of most entries nothing else of it is shown."""
    if not isinstance(stored, list):
        return stored["balance"]
    available, pending, held, debt, lifetime, expiring, next_change = stored[:_BALANCE_PARTS]
    return {
        "available": available,
        "pending": pending,
        "held": held,
        "debt": debt,
        "lifetime": lifetime,
        "expiring": [{"points": one, "at": at} for one, at in zip(*[iter(expiring)] * 2, strict=True)]
        if expiring
        else [],
        "next_change_at": expiring[1] if next_change is _FIRST else next_change,
    }


def short_purchase(document: PurchaseDocument) -> Any:
    """A purchase as it is stored; one that an earlier version wrote otherwise stays an object."""
    if "money" not in document or "explained" not in document:
        return document
    counted = document.get("counted")
    rest = {name: value for name in _REST if (value := document.get(name)) is not None}
    row = [
        *map(document.__getitem__, _PURCHASE),
        [_short_line(number, line) for number, line in enumerate(document["lines"], start=1)],
        _short_reasons(document["explained"]),
        _short_counted(counted) if counted else None,
        document["returns"],
        rest,
    ]
    return _trimmed(row, len(_PURCHASE))


def full_purchase(stored: Any, *, explained: bool = True) -> PurchaseDocument:
    """A stored purchase; if need be without `explained`, for whoever shows its explanation."""
    if not isinstance(stored, list):
        return stored
    head, tail = stored[: len(_PURCHASE)], stored[len(_PURCHASE) :]
    lines, reasons, counted, returns, rest = (*tail, *_NOTHING[len(tail) : 5])
    document: Any = dict(zip(_PURCHASE, head, strict=True))
    document["lines"] = [_full_line(number, line) for number, line in enumerate(lines or (), start=1)]
    if explained:
        document["explained"] = _full_reasons(reasons or ())
    document["returns"] = returns or []
    if rest:
        document.update(rest)
    if counted:
        document["counted"] = _full_counted(counted)
    return document


def stored_explanation(stored: Any) -> list[ExplanationDocument]:
    """As `explanation_of` the purchase, without its rows. Only to be shown: parts of it are shared, so change none."""
    if not isinstance(stored, list):
        return explanation_of(stored)
    row: Sequence[Any] = stored
    reasons = row[_REASONS] if len(row) > _REASONS else None
    shown: list[ExplanationDocument] = []
    following = iter(reasons or list[Any]())
    for part in following:
        if part[1:2] == ":":
            shown.append(_shown_miss(part))
            continue
        told = next(following)
        points, why = (told, APPLIED) if isinstance(told, int) else (0, told) if isinstance(told, str) else told
        shown.append({"campaign": part, "applied": points > 0, "points": points, "why": full_why(why)})
    return shown


def _short_line(number: int, line: LineDocument) -> Any:
    """What a line earned stands in it once; what came back of it, or what points paid, only where there is any."""
    row: list[Any] = [line["sku"], line["quantity"], line["amount"], line["category"], line["earned"]]
    common = _line(number, row)
    if line != common:
        row.append({name: value for name, value in line.items() if common.get(name, ...) != value})
    return _trimmed(row, 3)


def _full_line(number: int, row: Sequence[Any]) -> LineDocument:
    if len(row) == _LINE_PARTS:
        return cast("LineDocument", _line(number, row))
    sku, quantity, amount, category, earned, more = (*row, *_NOTHING[len(row) : 6])
    line: Any = _line(number, [sku, quantity, amount, category, earned or {}])
    if more:
        line.update(more)
    return line


def _line(number: int, row: Sequence[Any]) -> dict[str, Any]:
    """A line of which nothing came back."""
    sku, quantity, amount, category, earned = row
    return {
        "line": number,
        "sku": sku,
        "quantity": quantity,
        "amount": amount,
        "category": category,
        "points": sum(earned.values()),
        "earned": earned,
        "returned": "0",
        "reversed": {},
    }


def _short_counted(counted: Any) -> Any:
    known = _COUNTED_LEAST <= counted.keys() <= _COUNTED_MOST
    return _trimmed([*map(counted.get, _COUNTED)], _COUNTED_ALWAYS) if known else counted


def _full_counted(counted: Any) -> CountedDocument:
    if isinstance(counted, dict):
        return cast("CountedDocument", counted)
    named = zip(_COUNTED, counted, strict=False)
    return cast("CountedDocument", {name: value for name, value in named if value is not None})


def _short_reasons(rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Each name with its points, with why it gave none, or with both where a limit cut them."""
    parts: list[Any] = []
    for name, points, *why in rows:
        parts += (name, [points, short_why(*why)] if why else points) if points or not why else _short_miss(name, *why)
    return parts


def _full_reasons(parts: Sequence[Any]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    following = iter(parts)
    for part in following:
        if part[1:2] == ":":
            rows.append([*_full_miss(part)])
            continue
        told = next(following)
        if isinstance(told, str):
            told = (0, told)
        rows.append([part, told[0], full_why(told[1])] if isinstance(told, list | tuple) else [part, told])
    return rows


@lru_cache(_WHYS_KEPT)
def _short_miss(name: str, why: str) -> tuple[str, ...]:
    """`d:fri weekend` in one, as no name begins with a letter and a colon; else the name, and why it gave nothing."""
    short = short_why(why)
    return (f"{short} {name}",) if short[1:2] == ":" and " " not in name else (name, short)


@lru_cache(_WHYS_KEPT)
def _full_miss(part: str) -> tuple[str, int, str]:
    """The row of what `_short_miss` put in one."""
    told, _, name = part.rpartition(" ")
    return name, 0, full_why(told)


@lru_cache(_WHYS_KEPT)
def _shown_miss(part: str) -> ExplanationDocument:
    """The same as API.md shows it."""
    name, points, why = _full_miss(part)
    return {"campaign": name, "applied": points > 0, "points": points, "why": why}


@lru_cache(_WHYS_KEPT)
def short_why(why: str) -> str:
    """`t:gold` for `tier: not for tier gold`."""
    code, _, words = why.partition(": ")
    before, after = _WHYS.get(code, ("", ""))
    between = words.removeprefix(before).removesuffix(after)
    short = f"{_INITIALS.get(code, code)}:{between}"
    return short if full_why(short) == why else why


@lru_cache(_WHYS_KEPT)
def full_why(stored: str) -> str:
    """A reason in words; those that are not known by their code stand there as they are."""
    code, colon, between = stored.partition(":")
    code = _CODES.get(code, code)
    if not colon or between.startswith(" ") or code not in _WHYS:
        return stored
    before, after = _WHYS[code]
    return f"{code}: {before}{between}{after}"


def not_applied_of(document: PurchaseDocument) -> list[NotAppliedDocument]:
    """The campaigns and coupons that a purchase's explanation says gave nothing; the base and a tier are neither."""
    offers = [one for one in explanation_of(document)[1:] if not one["campaign"].startswith("tier:")]
    return [
        {"code": one["campaign"].removeprefix("coupon:"), "why": one["why"]} for one in offers if not one["applied"]
    ]


def _trimmed(row: list[Any], least: int) -> list[Any]:
    """A row without what is empty at its end."""
    end = len(row)
    while end > least and row[end - 1] in _EMPTY:
        end -= 1
    return row[:end]
