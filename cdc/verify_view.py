"""Holds the views in Valkey against the rows they were made from: same version, same content."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

from redis.asyncio import Redis

from cdc.finding import Finding
from cdc.verify_ledger import PREFETCH, STATEMENTS
from query.views import (
    RECENT_ENTRIES,
    account_key,
    activity_key,
    header,
    identifier_key,
    identifier_view,
    profile_key,
    profile_view,
    purchase_key,
    purchase_view,
)

CHUNK: Final = 500
PATIENCE_S: Final = 10.0
"""A view may be on its way when verify starts; what is still wrong after this is wrong."""
_RETRY_S: Final = 0.25

Item = TypeVar("Item")


async def check_views(connection: Any, client: Redis, where: str, newest: dict[int, tuple[int, str]]) -> list[Finding]:
    """Check every view of a shard; `newest` is version and account text by member."""
    accounts = Finding("the account view equals the row", where)
    wanted = ((account_key(member), header(version) + text.encode()) for member, (version, text) in newest.items())
    await _compare(client, accounts, _chunks(wanted))
    others = Finding("profile, purchase and identifier views equal their rows", where)
    for statement in ("members", "purchases", "identifiers"):
        async for chunk in _rows(connection, statement):
            await _compare(client, others, [[_VIEWS[statement](row) for row in chunk]])
    activity = Finding("the activity view ends with the newest entry", where)
    await _check_activity(client, activity, newest)
    return [accounts, others, activity]


def _profile(row: Any) -> tuple[str, bytes]:
    return profile_key(row["member_id"]), header(row["version"]) + profile_view(row)


def _purchase(row: Any) -> tuple[str, bytes]:
    return purchase_key(row["member_id"], row["version"]), header(row["changed_version"]) + purchase_view(row)


def _identifier(row: Any) -> tuple[str, bytes]:
    # Identifiers are guarded by the position of their change, which no row shows: only the body is compared.
    return identifier_key(row["kind"], row["value"]), identifier_view(row)


_VIEWS: Final = {"members": _profile, "purchases": _purchase, "identifiers": _identifier}


async def _compare(client: Redis, finding: Finding, chunks: Iterable[list[tuple[str, bytes]]]) -> None:
    for chunk in chunks:
        finding.checked += len(chunk)
        wrong = await _differing(client, chunk)
        until = time.monotonic() + PATIENCE_S
        while wrong and time.monotonic() < until:
            await asyncio.sleep(_RETRY_S)
            wrong = await _differing(client, wrong)
        for key, _ in wrong:
            finding.fault(f"{key}: the view is missing or differs")


async def _differing(client: Redis, wanted: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    stored = await client.mget([key for key, _ in wanted])
    return [(key, value) for (key, value), view in zip(wanted, stored, strict=True) if not _same(key, value, view)]


def _same(key: str, value: bytes, view: Any) -> bool:
    if view is None:
        return False
    return view.endswith(value) if key.startswith("i:") else view == value


async def _check_activity(client: Redis, finding: Finding, newest: dict[int, tuple[int, str]]) -> None:
    for members in _chunks(newest):
        pipeline = client.pipeline(transaction=False)
        for member in members:
            pipeline.zrevrange(activity_key(member), 0, 0, withscores=True)
            pipeline.zcard(activity_key(member))
        answers = await pipeline.execute()
        for index, member in enumerate(members):
            finding.checked += 1
            last, size = answers[2 * index], answers[2 * index + 1]
            version = newest[member][0]
            if not last or int(last[0][1]) != version or size != min(version, RECENT_ENTRIES):
                finding.fault(f"{activity_key(member)}: {size} entries, newest {last and last[0][1]}, not {version}")


async def _rows(connection: Any, statement: str) -> AsyncGenerator[list[Any]]:
    chunk: list[Any] = []
    async for row in connection.cursor(STATEMENTS[statement], prefetch=PREFETCH):
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _chunks(items: Iterable[Item]) -> Iterable[list[Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
