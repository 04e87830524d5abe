"""Where things stand in a program file: the line of every table and key, by its path.

Works on text that is known to be TOML, statement by statement: what stands inside a value, be it a
text over many lines or a list of tables, is neither header nor key and has the line of its key.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any, Final

Location = tuple[str | int, ...]

_QUOTED: Final = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_LONG: Final = r"""(?:\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5})"""
_PART: Final = rf"(?:[A-Za-z0-9_-]+|{_QUOTED})"
_STATEMENT: Final = re.compile(rf"[ \t]*(\[?\[?)[ \t]*({_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*[=\]]")
_TOKEN: Final = re.compile(rf"{_LONG}|{_QUOTED}|#[^\n]*|[^\"'#\n\[\]{{}}]+|.", re.DOTALL)


def find_lines(source: str) -> dict[Location, int]:
    """Where each table and key of a TOML text stands first, by its path; lines count from 1."""
    lines: dict[Location, int] = {(): 1}
    counts: dict[Location, int] = {}
    table: Location = ()
    for number, text in _statements(source):
        statement = _STATEMENT.match(text)
        if statement is None:
            continue
        key = _parts(statement[2])
        path = (*table, *key)
        if statement[1]:
            path = table = _table(key, counts, grows=statement[1] == "[[")
        for end in range(1, len(path) + 1):
            lines.setdefault(path[:end], number)
    return lines


def find_excess(source: str) -> int:
    """Where a text stands that is too much for the parser, though it may be TOML."""
    for number, text in _statements(source):
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            continue
        except (ValueError, RecursionError):
            return number
    return 1


def _statements(source: str) -> Iterator[tuple[int, str]]:
    """Each header, each key with its value, and each line between, with the number of its first line."""
    number = 1
    start = 0
    while start < len(source):
        end = _end(source, start)
        yield number, source[start:end]
        number += source.count("\n", start, end)
        start = end


def _end(source: str, start: int) -> int:
    """Behind the line break that ends a statement: one outside of texts and brackets."""
    depth = 0
    for token in _TOKEN.finditer(source, start):
        if token[0] == "\n" and not depth:
            return token.end()
        depth += (token[0] in {"[", "{"}) - (token[0] in {"]", "}"})
    return len(source)


def _parts(key: str) -> Location:
    """The parts of a dotted key, read as TOML reads them."""
    parts: list[str] = []
    value: Any = tomllib.loads(f"{key} = 0")
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return tuple(parts)


def _table(key: Location, counts: dict[Location, int], *, grows: bool) -> Location:
    """The path of a header: within an array of tables it means the array's last table."""
    path: Location = ()
    for index, part in enumerate(key):
        path = (*path, part)
        if grows and index == len(key) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
