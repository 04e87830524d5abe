"""Fills a shard with members in bulk, for measurements at scale: what the command code decides, sent by COPY.

Each member enrols with a card and buys once. Nothing is made up: `Batch` decides every command as a command node does,
and makes the rows; only their way into the tables is another. So `verify` and the change stream see a shop like any.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import asyncpg
import orjson

from command.batch import Batch
from command.envelope import Envelope, ReceiptKey
from command.fingerprint import Fingerprint
from command.load import Extras, Loaded
from command.program import ProgramCache
from rules.command import Command, EnrolMember, Line, Receipt, RecordPurchase
from rules.program import Program
from shard_router.card import new_card
from shard_router.member_id import new_member_id, slot_of
from shard_router.statement import load_statements

SOME_MEMBERS: Final = 20_000  # more than a stage of ten seconds asks about
MEMBERS_AT_ONCE: Final = 500  # as COPY of some MB, decided in a tenth of a second
_STATEMENTS: Final = load_statements(Path(__file__).with_suffix(".sql"))
_LINES: Final = (
    Line("milk", Decimal(2), 258, "dairy"),
    Line("bread", Decimal(1), 249, "bakery"),
    Line("coffee", Decimal(1), 699, "grocery"),
)


def _never(*_: object) -> bool:
    return False


_NO_CLAIMS: Final[Any] = SimpleNamespace(is_registered_elsewhere=_never)
"""A card of our own form needs none, nobody leaves, and no till has these receipts."""
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class Place:
    """A shard to fill: its primary, the number of its region and its slots."""

    dsn: str
    region_number: int
    slots: Sequence[int]


class _New(dict[str, Any]):
    """What `load` finds of a member who is new, and of a receipt that nobody has sent: nothing."""

    def __missing__(self, name: str) -> None:
        return None


async def fill(place: Place, members: int, told: Callable[[int], None] = lambda _: None) -> list[int]:
    """Add members until the shard has so many; the ids of some, spread over all, the newest one last.

    `told` hears how many there are.
    """
    connection = await asyncpg.connect(place.dsn)
    try:
        there: int = await connection.fetchval(_STATEMENTS["members"])
        program = await ProgramCache().in_force(connection)
        newest: list[int] = []
        counts = [min(MEMBERS_AT_ONCE, members - first) for first in range(there, members, MEMBERS_AT_ONCE)]
        async for rows in _decided_ahead(place, program, counts):
            await _copy(connection, rows)
            newest = [rows["member"][-1]["member_id"]]
            there += len(rows["member"])
            told(there)
        if newest:
            await connection.execute(_STATEMENTS["settle"])
        share = min(1.0, SOME_MEMBERS / max(there, members))
        some = await connection.fetch(_STATEMENTS["some_members"], share)
        return [row["member_id"] for row in some if row["member_id"] not in newest] + newest
    finally:
        await connection.close()


async def _decided_ahead(
    place: Place, program: Program, counts: Sequence[int]
) -> AsyncGenerator[dict[str, list[dict[str, Any]]]]:
    """The rows of so many new members at a time: the next ones are decided while Postgres takes these."""
    deciding: asyncio.Task[Any] | None = None
    for count in (*counts, 0):
        ready = await deciding if deciding else None
        deciding = asyncio.create_task(asyncio.to_thread(_decided, place, program, count)) if count else None
        if ready:
            yield ready


def _decided(place: Place, program: Program, count: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of so many new members, by table."""
    batch, run, store = Batch(program, Extras(), _NO_CLAIMS), secrets.token_hex(6), random.choice([*program.stores])
    for number in range(count):
        for envelope in _commands(place, store, f"{run}-{number}"):
            dates = envelope.receipt.dates(program) if envelope.receipt else ()
            answer = batch.decide(Loaded(envelope, _New(target=envelope.member_id), dates))
            if answer.version is None:
                raise ValueError(f"the program refuses what fills: {answer.body.decode()}")
    return {**batch.writes.tables(datetime.now(UTC)), **batch.writes.more_tables()}


def _commands(place: Place, store: str, name: str) -> Iterable[Envelope]:
    now = datetime.now(UTC)
    member_id = new_member_id(place.region_number, secrets.choice(place.slots))
    card = new_card(place.region_number, slot_of(member_id))
    yield _envelope(member_id, f"fill-{name}-e", EnrolMember(member_id, card, now, {"card": card}))
    purchase = RecordPurchase(Receipt(store, "fill", name), "EUR", _LINES, now, now)
    key = ReceiptKey(store, "fill", name, "purchase", _fingerprint(), occurred_at=now)
    yield _envelope(member_id, f"fill-{name}-p", purchase, key)


def _envelope(member_id: int, key: str, command: Command, receipt: ReceiptKey | None = None) -> Envelope:
    return Envelope(
        command=command, slot=slot_of(member_id), deadline=time.monotonic(), request_id="fill", credential="fill",
        key=key, fingerprint=_fingerprint(), member_id=member_id, receipt=receipt,
    )  # fmt: skip


def _fingerprint() -> Fingerprint:
    return Fingerprint(secrets.token_hex(16))


async def _copy(connection: Any, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """All of it or nothing; Postgres reads the values as it does of any text."""
    async with connection.transaction():
        for table, rows in tables.items():
            columns = list(rows[0])
            lines = "".join("\t".join(_text(row[column]) for column in columns) + "\n" for row in rows)
            await connection.copy_to_table(table, source=_once(lines.encode()), columns=columns)


async def _once(content: bytes) -> Any:
    yield content


def _text(value: Any) -> str:
    """A value in the text form of COPY."""
    if value is None:
        return "\\N"
    if isinstance(value, date):
        return value.isoformat()
    text = value if isinstance(value, str) else str(value) if isinstance(value, int) else orjson.dumps(value).decode()
    return text.translate(_ESCAPES)
