"""Changes to view operations: pure, so twice, late and in any split into batches comes to the same views.

Operations name whole states with the order to compare them by: the member's version where there is one, and for
identifiers, which move between members, the lsn. Within a batch only the newest of each key is kept. A row that
cannot be projected (a column that did not travel, a shape nobody foresaw) never stops the others: its member is
read again from Postgres.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cdc.source import Change
from query.views import (
    HEADER_SIZE,
    account_key,
    account_view,
    activity_item,
    activity_key,
    header,
    identifier_key,
    identifier_view,
    profile_key,
    profile_view,
    purchase_key,
    purchase_view,
)


@dataclass(slots=True)
class Operations:
    """What to do to the views of a shard. Values begin with the header; an identifier of header alone is removed."""

    accounts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """apart from the other views, because they are written last"""
    views: dict[str, bytes] = field(default_factory=dict[str, bytes])
    entries: dict[tuple[str, int], bytes] = field(default_factory=dict[tuple[str, int], bytes])
    identifiers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    visible: dict[int, int] = field(default_factory=dict[int, int])
    """member -> version, to tell whoever waits for it"""
    failed: list[tuple[Change, str]] = field(default_factory=list[tuple[Change, str]])
    """changes that could not be projected, and why"""

    @property
    def size(self) -> int:
        """How many keys and entries it writes."""
        return len(self.accounts) + len(self.views) + len(self.entries) + len(self.identifiers)


def project(changes: Iterable[Change]) -> Operations:
    """The operations that bring the views to what the changes say."""
    operations = Operations()
    for change in changes:
        if change.operation == "unread":
            operations.failed.append((change, change.row["why"]))
        apply = _PROJECTIONS.get((change.table, change.operation))
        if apply is None:
            continue
        try:
            apply(operations, change.row, change.lsn)
        except Exception as error:  # noqa: BLE001 - one poisonous row must not hold up the shard
            operations.failed.append((change, f"{type(error).__name__}: {error}"))
    return operations


def _journal(operations: Operations, row: dict[str, Any], _lsn: int) -> None:
    member_id, version = row["member_id"], row["version"]
    item, key, head = activity_item(row), account_key(member_id), header(version)
    if _is_newest(operations.accounts, key, head):  # else nobody will see that account
        operations.accounts[key] = head + account_view(row)
    operations.entries[activity_key(member_id), version] = item
    operations.visible[member_id] = max(version, operations.visible.get(member_id, 0))


def _member(operations: Operations, row: dict[str, Any], _lsn: int) -> None:
    _keep_newer(operations.views, profile_key(row["member_id"]), header(row["version"]) + profile_view(row))


def _purchase(operations: Operations, row: dict[str, Any], _lsn: int) -> None:
    key = purchase_key(row["member_id"], row["version"])
    _keep_newer(operations.views, key, header(row["changed_version"]) + purchase_view(row))


def _identifier(operations: Operations, row: dict[str, Any], lsn: int) -> None:
    _keep_newer(operations.identifiers, identifier_key(row["kind"], row["value"]), header(lsn) + identifier_view(row))


def _identifier_removed(operations: Operations, row: dict[str, Any], lsn: int) -> None:
    _keep_newer(operations.identifiers, identifier_key(row["kind"], row["value"]), header(lsn))


def _keep_newer(values: dict[str, bytes], key: str, value: bytes) -> None:
    if _is_newest(values, key, value[:HEADER_SIZE]):
        values[key] = value


def _is_newest(values: dict[str, bytes], key: str, head: bytes) -> bool:
    return head >= values.get(key, b"")[:HEADER_SIZE]


_PROJECTIONS: Final[dict[tuple[str, str], Callable[[Operations, dict[str, Any], int], None]]] = {
    ("journal", "insert"): _journal,
    ("member", "insert"): _member,
    ("member", "update"): _member,
    ("purchase", "insert"): _purchase,
    ("purchase", "update"): _purchase,
    ("identifier", "insert"): _identifier,
    ("identifier", "update"): _identifier,
    ("identifier", "delete"): _identifier_removed,
}
"""What is absent (program, messages) has no view. Members, journal and purchases are never deleted."""
