"""The projector of one shard: a source, the projection and the sink, one batch after another.

The order of a batch is the whole guarantee: project, apply to Valkey, repair what could not be projected, and only
then return, which is what lets the source acknowledge. Every step may be repeated.
"""

import time
from collections import Counter as Count
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cdc.project import Operations, project
from cdc.sink import Progress, Sink
from cdc.source import Batch, Change

LAG_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

CHANGES = Counter("loyalty_cdc_changes", "Changes applied to the views.", ["table"], registry=None)
BATCHES = Counter("loyalty_cdc_batches", "Batches applied to the views.", registry=None)
FAILED = Counter("loyalty_cdc_failed_rows", "Rows that could not be projected, or views not written.", registry=None)
LAG = Histogram(
    "loyalty_cdc_lag_seconds",
    "From commit to applied, of the oldest change of each batch.",
    buckets=LAG_BUCKETS_S,
    registry=None,
)
APPLY = Histogram(
    "loyalty_cdc_apply_seconds", "Time to project and apply a batch.", buckets=LAG_BUCKETS_S, registry=None
)
SLOT_BYTES = Gauge("loyalty_cdc_slot_retained_bytes", "WAL that Postgres keeps for the slot.", registry=None)


def register_metrics(registry: CollectorRegistry) -> None:
    """Show the projector's metrics in this registry."""
    for collector in (CHANGES, BATCHES, FAILED, LAG, APPLY, SLOT_BYTES):
        registry.register(collector)


@dataclass(slots=True)
class Freshness:
    """How old the views are, by the heartbeat that comes each `interval_ms` even when no table changes."""

    interval_ms: int
    committed_at_us: int = 0
    """Commit time of the newest change applied; 0 before there is one."""
    measured_ms: int = 0

    def applied(self, committed_at_us: int) -> None:
        """A batch is in the views now."""
        self.measured_ms = max(0, _now_us() - committed_at_us) // 1000
        self.committed_at_us = committed_at_us

    def lag_ms(self) -> int | None:
        """The lag last measured; the age of what was applied once a heartbeat is overdue; None before anything was."""
        if not self.committed_at_us:
            return None
        age_ms = (_now_us() - self.committed_at_us) // 1000
        overdue = age_ms > 2 * self.interval_ms + self.measured_ms
        return age_ms if overdue else self.measured_ms


class Projector:
    """Applies batches to the sink, and tells what it has done."""

    def __init__(self, sink: Sink, freshness: Freshness, *, refresh: Callable[[list[Change]], None]) -> None:
        self._sink = sink
        self._refresh = refresh
        self.freshness = freshness
        self.applied = 0
        self._applying = False

    @property
    def occupied(self) -> bool:
        """Whether a batch is on its way into the views, or Valkey is away."""
        return self._applying or bool(self._sink.trouble)

    def handle(self, batch: Batch) -> None:
        """Bring a batch into the views; returns when it is there."""
        self._applying = True
        try:
            self._handle(batch)
        finally:
            self._applying = False

    def _handle(self, batch: Batch) -> None:
        started_at = time.perf_counter()
        operations = project(batch.changes)
        newest_us = batch.changes[-1].committed_at_us
        failed = self._sink.apply(operations, Progress(batch.position, newest_us))
        if operations.failed or failed:
            self._repair(operations, failed)
        self._count(batch, time.perf_counter() - started_at)

    def _repair(self, operations: Operations, failed: list[str]) -> None:
        log = structlog.get_logger()
        for change, why in operations.failed:
            log.error("row_not_projected", table=change.table, lsn=change.lsn, why=why)
        for why in failed:
            log.error("view_not_written", why=why)
        FAILED.inc(len(operations.failed) + len(failed))
        if again := [change for change, _ in operations.failed if _has_member(change)]:
            self._refresh(again)

    def _count(self, batch: Batch, seconds: float) -> None:
        self.freshness.applied(batch.changes[-1].committed_at_us)
        self.applied += len(batch.changes)
        BATCHES.inc()
        APPLY.observe(seconds)
        LAG.observe(max(0.0, time.time() - batch.changes[0].committed_at_us / 1e6))
        for table, count in Count(change.table for change in batch.changes).items():
            CHANGES.labels(table).inc(count)


def _has_member(change: Change) -> bool:
    member_id: Any = change.row.get("member_id")
    return isinstance(member_id, int)


def _now_us() -> int:
    return time.time_ns() // 1000
