"""Holds what the tills of a campaign heard against the data at rest: the journal of the final primary and its accounts.

Each acknowledged command is there once, each refused one not at all, every balance is that of the tills' books, and
`loyalty verify` finds nothing.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final

import asyncpg

from benchmarks.chaos_client import BUCKETS, Log
from benchmarks.chaos_world import STATEMENTS, World
from shard_router.member_id import parse_member_id

SETTLES_S: Final = 60.0
VERIFY_S: Final = 120.0
EXIT_UNSEEN: Final = 3
"""Of `loyalty verify`: no promise is broken, and not all could be looked at."""
LOOK_S: Final = 0.5
ASKED_AT_ONCE: Final = 5_000
BY_THEMSELVES: Final = (
    "hold_lapsed", "points_activated", "points_expired", "redemption_expired", "tier_changed", "tier_renewed",
    "transfer_received", "transfer_settled", "transfer_cancelled", "referral_credited", "referral_returned",
)  # fmt: skip
"""Entries that no command of a till makes."""


async def judge(world: World, log: Log, found: list[str]) -> None:
    """Add to `found` whatever is not as the tills heard it."""
    try:
        async with world.session(world.port(await world.server(standby=False))) as primary:
            await _entries(primary, log, found)
            await _answers(primary, log, found)
            await _receipts(primary, log, found)
            await _times(primary, found)
            found += await _balances(primary, log)
    except (LookupError, OSError, asyncpg.PostgresError) as error:
        found.append(f"the final primary cannot be asked: {error}")
    await _verify(world, found)


async def _verify(world: World, found: list[str]) -> None:
    """What `loyalty verify` says, asked again while a server does not answer it."""
    until = time.monotonic() + VERIFY_S
    while True:
        code, words = await world.loyalty("verify")
        if code != EXIT_UNSEEN or time.monotonic() > until:
            break
    if code:
        found.append(f"verify: {words[-2000:]}")


async def _entries(primary: asyncpg.Connection, log: Log, found: list[str]) -> None:
    members = {parse_member_id(member) for member, _ in log.acknowledged.values()}
    rows = {tuple(row) for row in await primary.fetch(STATEMENTS["entries"], list(members), list(BY_THEMSELVES))}
    claimed: dict[tuple[int, int], str] = {}
    for key, (member, version) in log.acknowledged.items():
        entry = (parse_member_id(member), version)
        if entry not in rows:
            found.append(f"{key}: acknowledged as {member} version {version}, not in the journal")
        if entry in claimed:
            found.append(f"{key} and {claimed[entry]} were acknowledged as one entry")
        claimed[entry] = key
    if not log.open and len(rows - claimed.keys()):
        found.append(f"entries nobody was told of: {sorted(rows - claimed.keys())[:5]}")


async def _answers(primary: asyncpg.Connection, log: Log, found: list[str]) -> None:
    """What is kept under each key: the entry that was told, and none of what was refused. Erasing forgets some."""
    for keys in _some([*log.acknowledged, *log.refused]):
        for key, member_id, version in await primary.fetch(STATEMENTS["answers"], keys):
            if version is None:
                continue
            if key in log.refused:
                found.append(f"{key}: refused ({log.refused[key]}), and made entry {version}")
                continue
            member, told = log.acknowledged[key]
            if (member_id, version) != (parse_member_id(member), told):
                found.append(f"{key}: acknowledged as version {told}, kept as {version}")


def _some(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[first : first + ASKED_AT_ONCE] for first in range(0, len(keys), ASKED_AT_ONCE))


async def _receipts(primary: asyncpg.Connection, log: Log, found: list[str]) -> None:
    prefix = next(iter(log.receipts), "chaos-none").rpartition("-")[0].rpartition("-")[0]
    times = {row["receipt"]: row["times"] for row in await primary.fetch(STATEMENTS["receipts"], prefix)}
    found += [f"receipt {one}: recorded {times.get(one, 0)} times" for one in log.receipts if times.get(one) != 1]
    found += [f"receipt {one} was refused and is recorded" for one in log.refused_receipts if one in times]


async def _times(primary: asyncpg.Connection, found: list[str]) -> None:
    rows = await primary.fetch(STATEMENTS["backwards"])
    found += [
        f"entry {row['version']} of {row['member_id']}: dated before the one before, or after now" for row in rows
    ]


async def _balances(primary: asyncpg.Connection, log: Log) -> list[str]:
    """What differs from the tills' books once all that was under way has come to its end."""
    until = time.monotonic() + SETTLES_S
    while (wrong := await _differing(primary, log)) and time.monotonic() < until:  # noqa: ASYNC110 - the courier ends it
        await asyncio.sleep(LOOK_S)
    return wrong


async def _differing(primary: asyncpg.Connection, log: Log) -> list[str]:
    books = {parse_member_id(member): balance for member, balance in log.balances.items()}
    names = {parse_member_id(member): member for member in log.balances}
    wrong: list[str] = []
    for row in await primary.fetch(STATEMENTS["balances"], list(books)):
        held = {bucket: row[bucket] for bucket in BUCKETS}
        if held != books[row["member_id"]]:
            wrong.append(f"member {names[row['member_id']]}: {held}, by our books {books[row['member_id']]}")
    erased = [parse_member_id(member) for member in log.erased]
    there = await primary.fetch(STATEMENTS["open_members"], erased)
    return wrong + [f"member {names[row['member_id']]} was erased and is open" for row in there]
