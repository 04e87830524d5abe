"""How rows reach a statement: as an array per column, or, when there is but one row, as plain values.

A `.sql` file says which columns it reads as `json_to_recordset($1::json) AS t(name type, ...)`. JSON would be parsed in
the backend row by row, and to start a function scan for one row costs as much as to write it. So that one place
is replaced here; all else is the statement's own text, but for lines that end in `of: one` or `of: many`: what finds a
row by plain values is planned by its key whatever the statistics say, and needs no look-up kept apart.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import orjson

OF: Final = " -- of: "
"""Before what a line is for."""
ONE: Final = "one"
MANY: Final = "many"
_ROWS: Final = re.compile(r"json_to_recordset\(\$1::json\) AS (\w+)\(([^)]*)\)")


class RowStatement:
    """A statement that reads rows of some columns. `of_rows` and `of_one` number its parameters from `first` on."""

    def __init__(self, text: str) -> None:
        """`text` as it stands in its file; ValueError when it reads no rows."""
        found = _ROWS.search(text)
        if found is None:
            raise ValueError(f"no json_to_recordset($1::json) in {text[:60]!r}")
        self._text = text
        columns = list(map(str.split, found[2].split(",")))
        self.names = [name for name, _ in columns]
        self._kinds = [kind for _, kind in columns]
        self._documents = [place for place, kind in enumerate(self._kinds) if kind == "json"]
        self._read = _reader(self.names)
        self._name = f"{found[1]}({', '.join(self.names)})"

    def __len__(self) -> int:
        return len(self.names)

    def of_rows(self, first: int = 1) -> str:
        """The text for any number of rows."""
        arrays = (f"${number}::{kind}[]" for number, kind in self._numbered(first))
        return self._reading(f"unnest({', '.join(arrays)}) AS {self._name}", MANY)

    def of_one(self, first: int = 1) -> str:
        """The text for one row."""
        values = (f"${number}::{kind}" for number, kind in self._numbered(first))
        return self._reading(f"(VALUES ({', '.join(values)})) AS {self._name}", ONE)

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> list[Sequence[Any]]:
        """The arguments of the text for any number of rows, of one at least."""
        columns: list[Sequence[Any]] = list(zip(*map(self._read, rows), strict=True))
        for place in self._documents:
            columns[place] = [orjson.dumps(document).decode() for document in columns[place]]
        return columns

    def values(self, row: Mapping[str, Any]) -> list[Any]:
        """The arguments of the text for one row."""
        values = list(self._read(row))
        for place in self._documents:
            values[place] = orjson.dumps(values[place]).decode()
        return values

    def _reading(self, rows: str, part: str) -> str:
        lines = (line.partition(OF) for line in self._text.splitlines())
        return _ROWS.sub(rows, "\n".join(text for text, _, of in lines if of in ("", part)), count=1)

    def _numbered(self, first: int) -> Iterator[tuple[int, str]]:
        return enumerate(self._kinds, first)


def _reader(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """What reads the values of some names at once."""
    read = itemgetter(*names)
    return read if len(names) > 1 else lambda row: (read(row),)
