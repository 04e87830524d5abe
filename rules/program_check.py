"""From TOML text to a checked document: every complaint names its line, its key and what to write instead."""

import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from rules.currency import rate_of
from rules.program_file import Campaign, Coupon, ProgramDocument
from rules.program_lines import Location, find_excess, find_lines

_SHOWN_MAX: Final = 100
_RATE_MAX: Final = 2**63 - 1
"""Of both parts of a currency's rate: a purchase notes them as JSON integers (see HomeDocument)."""
_LISTS: Final = ("currencies", "tiers", "campaigns", "coupons", "rewards", "stores")


class ProgramError(ValueError):
    """A program file that cannot be used; the message says where, why and what to write instead."""


def read_document(source: str, *, applied: bool = False) -> ProgramDocument:
    """The checked document of a TOML text; ProgramError names every place that is wrong.

    `applied`: it is in force, so what is refused only since then does not count.
    """
    try:
        document = ProgramDocument.model_validate(_parsed(source))
    except ValidationError as error:
        raise _complaint(source, [(one["loc"], _words(dict(one))) for one in error.errors()]) from error
    disagreements = [*_disagreements(document), *(() if applied else _refused_since(document))]
    if disagreements:
        raise _complaint(source, disagreements)
    return document


def _parsed(source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ProgramError(f"not TOML: {error}") from error
    except (RecursionError, ValueError) as error:  # of the interpreter
        words = "brackets too deep in one another" if isinstance(error, RecursionError) else "a number too long to read"
        raise ProgramError(f"line {find_excess(source)}: {words}; write it shorter") from error


def _complaint(source: str, wrong: list[tuple[Location, str]]) -> ProgramError:
    lines = find_lines(source)
    told = [(_line_of(lines, location), _path(location), words) for location, words in wrong]
    return ProgramError("\n".join(f"line {line}: {path}: {words}" for line, path, words in sorted(told)))


def _line_of(lines: dict[Location, int], location: Location) -> int:
    return next(lines[location[:end]] for end in range(len(location), -1, -1) if location[:end] in lines)


def _path(location: Location) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in location) or "file"


def _words(error: dict[str, Any]) -> str:
    location, kind, found = error["loc"], error["type"], error["input"]
    if kind == "missing":
        return _missing(location)
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key; {hint}known here: {', '.join(known)}"
    if kind in {"tuple_type", "model_type"}:
        return _shape(location, kind)
    words = error["msg"].removeprefix("Value error, ")
    if kind == "timezone_aware":
        words = 'write the instant with its zone, like "2026-01-01T00:00:00Z"'
    return words if isinstance(found, dict) else f"{words} (found {_shown(found)})"


def _missing(location: Location) -> str:
    if len(location) == 1:
        return f"is missing; add [{location[0]}] with {', '.join(_known_keys(location))}"
    return f"is missing; write {location[-1]} = ..."


def _shape(location: Location, kind: str) -> str:
    """What to write where a table or a list belongs and something else stands."""
    name, *within = location
    if name in _LISTS and within in ([], within[:1]):
        return f"write [[{name}]], one for each"
    if not within:
        return f"write [{name}], once"
    return f"write {location[-1]} = {'[ ... ]' if kind == 'tuple_type' else '{ ... }'}"


def _shown(value: Any) -> str:
    """A value as it was found, unless it is too much to show."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "more than can be shown"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _known_keys(location: Location) -> list[str]:
    """The keys of the table at a path."""
    model: type[BaseModel] = ProgramDocument
    for part in location:
        if isinstance(part, str):
            field = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
            model = next(_models(field.annotation if field else None), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _disagreements(document: ProgramDocument) -> Iterator[tuple[Location, str]]:
    for name in _LISTS:
        yield from _twice(name, [part.code for part in getattr(document, name)])
    yield from _currencies(document)
    yield from _tiers(document)
    for name, parts in (("campaigns", document.campaigns), ("coupons", document.coupons)):
        for index, part in enumerate(parts):
            yield from _offer(document, (name, index), part)


def _twice(name: str, codes: list[str]) -> Iterator[tuple[Location, str]]:
    seen: set[str] = set()
    for index, code in enumerate(codes):
        if code in seen:
            yield (name, index, "code"), f"{code!r} stands there twice; codes are unique among {name}"
        seen.add(code)


def _refused_since(document: ProgramDocument) -> Iterator[tuple[Location, str]]:
    """What earlier versions have taken."""
    yield from _same_coupons(document)
    for index, one in enumerate(document.currencies if document.points.per_unit else ()):
        if max(rate_of(one, document).as_integer_ratio()) > _RATE_MAX:
            words = "over that of [points] it has more digits than a purchase can note; write both with fewer"
            yield ("currencies", index, "per_unit"), words


def _same_coupons(document: ProgramDocument) -> Iterator[tuple[Location, str]]:
    codes = [coupon.code for coupon in document.coupons]
    capitals = [code.upper() for code in codes]
    for index, code in enumerate(codes):
        first = capitals.index(code.upper())
        if codes[first] != code:
            words = f"{code!r} is {codes[first]!r}: tills may send a code in capitals or small letters"
            yield ("coupons", index, "code"), words


def _currencies(document: ProgramDocument) -> Iterator[tuple[Location, str]]:
    home, worth = document.program.currency, document.points.worth
    if document.currencies and not document.points.per_unit:
        yield ("points", "per_unit"), "with [[currencies]] it must be above 0: they count as their per_unit over this"
    if not worth and any(one.worth for one in document.currencies):
        yield ("points", "worth"), "is missing; points pay in every currency or in none"
    for index, one in enumerate(document.currencies):
        if one.code == home:
            yield (
                ("currencies", index, "code"),
                f"{home} is the home currency; its per_unit and worth stand in [points]",
            )
        if worth and not one.worth:
            words = (
                f"is missing; write worth = {{ points = {worth.points}, amount = ... }} in minor units of {one.code}"
            )
            yield ("currencies", index, "worth"), words


def _tiers(document: ProgramDocument) -> Iterator[tuple[Location, str]]:
    thresholds = [tier.threshold for tier in document.tiers]
    if 0 not in thresholds:
        yield ("tiers",), "one tier is the one everybody has: give the lowest threshold = 0"
    for index, threshold in enumerate(thresholds):
        if threshold in thresholds[:index]:
            yield ("tiers", index, "threshold"), f"two tiers at {threshold}; each tier needs its own threshold"


def _offer(document: ProgramDocument, at: Location, part: Campaign | Coupon) -> Iterator[tuple[Location, str]]:
    if part.starts_at and part.ends_at and part.ends_at <= part.starts_at:
        yield (*at, "ends_at"), "it ends before it starts; ends_at must be later than starts_at"
    for key, codes in (("stores", document.stores), ("tiers", document.tiers)):
        known = [one.code for one in codes]
        for code in getattr(part.when, key):
            if code not in known:
                near = get_close_matches(code, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; add it under [[{key}]] or take it out"
                yield (*at, "when", key), f"there is no {code!r} among the {key}{hint}"
