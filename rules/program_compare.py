"""What a new program file would change against the running one, in words for the reviewer.

Two programs are the same when their documents are equal: another notation of a number or an instant,
comments and layout change nothing.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, time
from typing import Any, Final

from rules.program import Program

_LISTS: Final = {
    "currencies": "currency",
    "tiers": "tier",
    "campaigns": "campaign",
    "coupons": "coupon",
    "rewards": "reward",
    "stores": "store",
}
_GOES: Final = {
    "currencies": ": purchases in it are refused from then on; what was bought before may still come back",
}


def compare_programs(old: Program | None, new: Program) -> list[str]:
    """One line per change, in the order of the file; empty when nothing changes. `old` None: nothing runs yet."""
    before = old.document.model_dump(by_alias=True) if old else {}
    after = new.document.model_dump(by_alias=True)
    changes: list[str] = []
    for part, value in after.items():
        if part in _LISTS:
            changes += _list_changes(part, before.get(part, []), value)
        else:
            changes += _changes(part, before.get(part), value)
    return changes


def _list_changes(part: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    was, will = {one["code"]: one for one in before}, {one["code"]: one for one in after}
    for code in was:
        if code not in will:
            yield f"{_LISTS[part]} {code!r} goes{_GOES.get(part, '')}"
    for code, value in will.items():
        if code in was:
            yield from _changes(f"{_LISTS[part]} {code!r}", was[code], value)
        else:
            yield f"{_LISTS[part]} {code!r} is new{_named(value)}"
    if [code for code in was if code in will] != [code for code in will if code in was]:
        why = ": of equally good ones in a group the first applies" if part == "campaigns" else ""
        yield f"{part} stand in another order{why}"


def _named(value: dict[str, Any]) -> str:
    return f": {value['name']}" if value.get("name") else ""


def _changes(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(after, dict) and isinstance(before, dict):
        for key in {**before, **after}:
            yield from _changes(f"{path}.{key}", before.get(key), after.get(key))
    elif before != after:
        yield f"{path}: {_words(before)} -> {_words(after)}"


def _words(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return ", ".join(f"{key} {_words(one)}" for key, one in value.items() if one is not None)
        case list() | tuple():
            return "[" + ", ".join(str(one) for one in value) + "]"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case time():
            return "24:00" if value == time.max else value.isoformat().removesuffix(":00")
        case _:
            return str(value)
