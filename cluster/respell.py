"""Phones and e-mails of a whole system in their one form: once when a release first meets a system, or when asked.

A mark beside the migrations tells that every shard was looked at; collisions are left to people, and told again by
`loyalty respell` and `loyalty verify`.
"""

from pathlib import Path

from cluster.command_node import command_node
from cluster.errors import ClusterError
from command.migrate import find_mark, set_mark
from command.node import CommandNode
from command.respell import Respelling, respell
from shard_router.errors import ProblemError
from shard_router.incarnation import is_unreconciled
from shard_router.member_id import format_member_id

MARK = "identifiers in one form, 1"


async def respell_system(topology: Path, *, once: bool = False) -> Respelling | None:
    """Bring what all shards of a topology document store to its one form; None when it is asked `once` and was done.

    ClusterError when a shard cannot be reached; what was done until then stays done.
    """
    try:
        async with command_node(topology) as node:
            shards = list(node.topology.current.document.shards)
            if once and all([await _is_marked(node, shard) for shard in shards]):
                return None
            if once and any([await _waits(node, shard) for shard in shards]):
                return None
            told = await respell(node, shards)
            for shard in shards:
                async with node.pools[shard].primary() as connection:
                    await set_mark(connection, MARK)
            return told
    except ProblemError as error:
        raise ClusterError(
            f"identifiers could not be brought to their one form: {error.detail or error.code}"
        ) from error


async def _waits(node: CommandNode, shard: str) -> bool:
    """Whether a restore has to be reconciled first: until then nothing can be claimed on the shard."""
    async with node.pools[shard].primary() as connection:
        return await is_unreconciled(connection)


async def _is_marked(node: CommandNode, shard: str) -> bool:
    async with node.pools[shard].primary() as connection:
        return await find_mark(connection, MARK)


def lines_of(told: Respelling) -> list[str]:
    """What came of it, for people; an identifier is named by its kind and its members."""
    lines = [f"{told.changed} phones and e-mails were brought to their one form"]
    for one in told.collisions:
        other = format_member_id(one.holder) if one.holder is not None else "another member"
        lines.append(f"the {one.kind} of {format_member_id(one.member_id)}, written otherwise, is that of {other}")
    return lines
