"""Shopping history as a replay posts it: purchases and returns of shoppers, in time order.

A shopper is a text; events of one shopper must be posted in their order, others may overtake. Keys come from the data
alone, so posting the same history again has no second effect.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

_NATURAL_KEY: Final = ("store", "till", "occurred_at", "receipt")


class HistoryError(Exception):
    """A file that cannot be replayed; the text says which line and why."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """A basket. `body` is the API's; without a `member` in it the shopper is enrolled first."""

    shopper: str
    store: str
    key: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Return:
    """Goods brought back from the purchase named `purchase_key`, which comes earlier in the same history."""

    shopper: str
    store: str
    key: str
    purchase_key: str
    body: dict[str, Any]


Event = Purchase | Return


def check_files(paths: Iterable[Path]) -> None:
    """Pass when all files can be read; HistoryError names the first that cannot."""
    for path in paths:
        _open(path).close()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise HistoryError(f"{path}: {error.strerror}") from error


def read_json_lines(paths: Iterable[Path]) -> Iterator[Purchase]:
    """The purchases of JSON Lines files in API shape (`POST /v1/purchases`).

    HistoryError names a broken line, or a file that cannot be read.
    """
    for path in paths:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _purchase(line, f"{path}, line {number}")


def _purchase(line: bytes, place: str) -> Purchase:
    try:
        body: dict[str, Any] = orjson.loads(line)
        natural_key = orjson.dumps([body[name] for name in _NATURAL_KEY])
        shopper = orjson.dumps(body["member"]).decode()
        store = str(body["store"])
    except (ValueError, KeyError, TypeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else "it is no object"
        why = str(error) if isinstance(error, ValueError) else why
        raise HistoryError(f"{place}: no purchase in API shape: {why}") from error
    return Purchase(shopper, store, "line-" + hashlib.sha256(natural_key).hexdigest()[:32], body)
