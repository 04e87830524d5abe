"""A reconciliation under way: what it works with, how it asks shards, and what it has to tell."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from command.envelope import Envelope, ReceiptKey
from command.fingerprint import Fingerprint
from command.node import CommandNode
from rules.command import Command
from shard_router.errors import ProblemError
from shard_router.member_id import format_member_id, slot_of
from shard_router.statement import load_statements

PAGE: Final = 500
STATEMENTS: Final = load_statements(Path(__file__).with_name("reconcile.sql"))
_DEADLINE_S: Final = 10.0


@dataclass(slots=True)
class Reconciliation:
    """`done` counts what was brought back, in words; `notes` are for people to look at."""

    node: CommandNode
    shards: Sequence[str]
    restored: set[str]
    """Shards of an incarnation that is not reconciled yet."""
    done: Counter[str] = field(default_factory=Counter[str])
    notes: list[str] = field(default_factory=list[str])

    async def fetch(self, shard: str, statement: str, *arguments: Any) -> list[Any]:
        """Rows of a statement on the primary of a shard."""
        async with self.node.pools[shard].primary() as connection:
            return await connection.fetch(STATEMENTS[statement], *arguments)

    async def fetch_of(self, shard: str, statement: str, asked: Iterable[tuple[Any, ...]], *more: Any) -> list[Any]:
        """Rows of a statement that takes an array for each column of what is asked."""
        rows = list(asked)
        return await self.fetch(shard, statement, *map(list, zip(*rows, strict=True)), *more) if rows else []

    async def execute(self, shard: str, statement: str, *arguments: Any) -> None:
        """Run a statement on the primary of a shard."""
        async with self.node.pools[shard].primary() as connection:
            await connection.execute(STATEMENTS[statement], *arguments)

    async def run(self, member_id: int, command: Command, receipt: ReceiptKey | None = None) -> str | None:
        """Run an ordinary command of a member: the code of a refusal, None for a yes, now or before."""
        envelope = Envelope(
            command=command,
            slot=slot_of(member_id),
            deadline=time.monotonic() + _DEADLINE_S,
            request_id="reconcile",
            credential="reconcile",
            member_id=member_id,
            receipt=receipt,
        )
        return (await self.node.lanes_for(member_id).run(envelope)).code

    async def run_once(self, member_id: int, command: Command, kind: str, version: int) -> None:
        """Run a command that undoes what an entry of its member did, once; ProblemError when it is refused."""
        name = f"{member_id} {kind} {version}".encode()
        fingerprint = Fingerprint(blake2b(name, digest_size=16).hexdigest())
        receipt = ReceiptKey(format_member_id(member_id), "-", str(version), kind, fingerprint)
        code = await self.run(member_id, command, receipt)
        if code is not None:
            raise ProblemError(code, f"{kind} of {format_member_id(member_id)}-{version} was refused")
