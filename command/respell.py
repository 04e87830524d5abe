"""Brings phones and e-mails that versions before stored otherwise to their one form (see service/identifier.py).

Each is an ordinary change of its member: the new claim is leased, the entry written, the views follow, the old
claim is freed by its errand. So it may be cut short, run again, and run beside nodes that serve. What another
member has is told, never merged; and what no numbering plan can have stays as it is.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from command.envelope import Envelope
from command.node import CommandNode
from rules.command import ChangeIdentifiers
from service.identifier import canonical_identifier
from shard_router.directory import Identifier, new_attempt
from shard_router.errors import ProblemError
from shard_router.member_id import slot_of

PAGE: Final = 500
AT_ONCE: Final = 8
"""Changes under way: each keeps a connection of its shard and one of its claim's."""
_DEADLINE_S: Final = 10.0
_GONE: Final = frozenset({"member_closed", "member_not_found", "not_found"})
"""Answers by which the member or the identifier went meanwhile."""


@dataclass(frozen=True, slots=True)
class Collision:
    """Two members with one phone or e-mail, written in two ways; `holder` has it in its one form."""

    kind: str
    member_id: int
    holder: int | None


@dataclass(slots=True)
class Respelling:
    """What came of it."""

    changed: int = 0
    collisions: list[Collision] = field(default_factory=list[Collision])


async def respell(node: CommandNode, shards: Iterable[str]) -> Respelling:
    """Bring what is stored on some shards to its one form; `shard_unavailable` ends it, what is done is done."""
    told, places = Respelling(), asyncio.Semaphore(AT_ONCE)

    async def change(member_id: int, old: Identifier, new: Identifier) -> None:
        async with places:
            collision = await _respell_one(node, member_id, old, new)
        if collision:
            told.collisions.append(collision)
        else:
            told.changed += 1

    for shard in shards:
        async for page in _pages(node, shard):
            pairs = [(member_id, old, _one_form(old)) for member_id, old in page]
            await asyncio.gather(*(change(member_id, old, new) for member_id, old, new in pairs if new))
    told.collisions.sort(key=lambda one: (one.member_id, one.kind))
    return told


async def _pages(node: CommandNode, shard: str) -> AsyncGenerator[list[tuple[int, Identifier]]]:
    after: Identifier = ("", "")
    while rows := await node.lanes_of(shard).store.rows("identifier_page", *after, PAGE):
        yield [(row["member_id"], (row["kind"], row["value"])) for row in rows]
        after = rows[-1]["kind"], rows[-1]["value"]


def _one_form(identifier: Identifier) -> Identifier | None:
    """Another form, if there is one."""
    kind, value = identifier
    try:
        canonical = canonical_identifier(kind, value)
    except ValueError:
        return None
    return None if canonical == value else (kind, canonical)


async def _respell_one(node: CommandNode, member_id: int, old: Identifier, new: Identifier) -> Collision | None:
    deadline = time.monotonic() + _DEADLINE_S
    attempt = new_attempt()
    taken = await node.claims.lease([new], member_id, attempt=attempt, deadline=deadline)
    if taken:
        return Collision(old[0], member_id, await node.directory.find(new))
    has_both = new in await node.identifiers_of(member_id)
    command = ChangeIdentifiers(() if has_both else (new,), (old,), datetime.now(UTC), respells=True)
    envelope = Envelope(
        command=command,
        slot=slot_of(member_id),
        deadline=deadline,
        request_id="respell",
        credential="respell",
        member_id=member_id,
    )
    answer = await node.lanes_for(member_id).run(envelope)
    await node.claims.conclude([new], member_id, attempt=attempt, deadline=deadline)
    if (code := answer.code) == "member_exists":
        return Collision(old[0], member_id, await node.directory.find(new))
    if code is not None and code not in _GONE:
        raise ProblemError(code, f"a {old[0]} could not be brought to its one form")
    return None
