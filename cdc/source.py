"""The one interface of change sources: committed row changes of a shard, in commit order, at least once.

A source hands over a batch by calling `handle`; when that returns, and only then, it tells Postgres
that everything up to the batch's position is flushed. So nothing can be acknowledged before it is
applied: whoever applies has no acknowledgement to forget. The slot is the only offset there is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from shard_router.errors import LoyaltyError

Operation = Literal["insert", "update", "delete", "message", "unread"]

KEY_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "identifier": ("kind", "value"),
    "journal": ("member_id", "version"),
    "member": ("member_id",),
    "program": ("version",),
    "purchase": ("member_id", "version"),
}
"""Primary keys of the published tables: all that a delete carries (REPLICA IDENTITY DEFAULT)."""

OUR_PREFIX: Final = "loyalty."
"""Begins the prefix of our logical messages. Those of other tools hold whatever they like and are passed over."""

HEARTBEAT: Final = OUR_PREFIX + "heartbeat"
"""Prefix of the logical message emitted each second: it moves the slot while tables rest and measures the true lag."""


class Change(NamedTuple):
    """One committed change of one row; both sources yield it alike.

    `row` holds integers, booleans, and text for all else: json as stored, timestamptz as RFC 3339 in UTC (six
    fractional digits or none), date as ISO 8601. A column that is absent was left unchanged out of line (TOAST) and
    did not travel, or could not be read. A delete has only the key. A message has its prefix as `table`, and `content`.
    A change that as a whole could not be read is `unread`, and its row tells `why`.
    `lsn` is where the change itself lies in the WAL: changes of one row have growing lsn. `committed_at_us` is Unix
    time by the clock of Postgres, `xid` the transaction.
    """

    table: str
    operation: Operation
    row: dict[str, Any]
    committed_at_us: int
    lsn: int
    xid: int = 0


class Batch(NamedTuple):
    """Changes in commit order; once they are applied, Postgres may forget what lies before `position`."""

    changes: Sequence[Change]
    position: int


Handle = Callable[[Batch], None]
"""Applies a batch, however long that takes; returning means applied, raising ends the source unacknowledged."""


class SourceEnded(LoyaltyError):  # noqa: N818 - it tells what happened
    """The stream of changes ended, for whatever reason: a fault, except after `stop`."""


class ChangeSource(Protocol):
    """Where changes come from."""

    def run(self, handle: Handle) -> None:
        """Stream into `handle` until `stop`; any other end raises SourceEnded. Runs once in the calling thread."""
        ...

    def stop(self) -> None:
        """End the stream from another thread; what is unacknowledged will come again."""
        ...
