"""The "yes" of a command as it is stored under its key: without what its entry has, which is put back when it is read.

What is left out stands as null, in its place, so that the answer is the same to the byte. What earlier versions have
stored is whole and stays so.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

LEFT_OUT: Final = ("postings", "not_applied", "account")
"""What answers have word for word from the journal; none of it is ever null."""


def shortened(document: Mapping[str, Any]) -> bytes:
    """An answer as it is stored."""
    return orjson.dumps({name: None if name in LEFT_OUT else value for name, value in document.items()})


def is_shortened(document: Mapping[str, Any], name: str) -> bool:
    """Whether a part of a stored answer was left out."""
    return name in LEFT_OUT and document.get(name, ...) is None


def completed(stored: str, entry: Mapping[str, Any] | None) -> bytes:
    """A stored answer as it was first given; `entry` is its row of the journal, JSON columns as text."""
    if entry is None:
        return stored.encode()
    document = orjson.loads(stored)
    missing = [name for name in LEFT_OUT if is_shortened(document, name)]
    return orjson.dumps({**document, **{name: _part(name, entry) for name in missing}}) if missing else stored.encode()


def _part(name: str, entry: Mapping[str, Any]) -> Any:
    if name == "not_applied":
        return orjson.loads(entry["detail"]).get("not_applied", [])
    return orjson.Fragment(entry["account_after" if name == "account" else name])
