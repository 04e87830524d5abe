"""What keeps a shard in the topology: a region, or a shard, goes when there is nothing of this left."""

from pathlib import Path
from typing import Any, Final, NamedTuple

from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("remains.sql"))


class Remains(NamedTuple):
    """What there is on a primary."""

    members: bool
    errands: bool
    stock_moves: bool
    receipts_fenced: bool
    """It claims no receipts any more: its removal has begun, or was cut short (command/receipt_move.py)."""

    @property
    def hinders(self) -> list[str]:
        """Why it must stay, each as what follows its name; none when it can go."""
        reasons = {
            "holds members: it goes only when nobody ever lived there": self.members,
            "owes other shards something: its nodes are about to do it": self.errands,
            "is about to give stock of a reward to another shard": self.stock_moves,
        }
        return [reason for reason, is_so in reasons.items() if is_so]


async def read_remains(connection: Any) -> Remains:
    """Ask a primary; any login of ours that reads may."""
    return Remains(*await connection.fetchrow(STATEMENTS["remains"]))
