"""Ours beside others, one after another in the same run on the same machine.

Each row says how it was measured. All HTTP rows share one client, so its cost is in each of them.
"""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.peer import Peak, Peers, measure_bare, measure_peak, measure_pgbench, measure_valkey
from benchmarks.workload import Workload


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. `of` names the row of ours it stands beside; None for ours."""

    what: str
    per_s: float
    how: str
    of: str | None = None


async def compare(workload: Workload, peers: Peers, *, duration_s: float) -> list[dict[str, Any]]:
    """The ratio table, as rows of run.json. A peer that cannot be measured has a row that says why."""
    commands, queries = [await _own(workload, side, duration_s) for side in ("command", "query")]
    rows = [commands, queries]
    rows.append(await told(measure_pgbench(peers, duration_s), "pgbench, one earn per transaction", of=commands.what))
    rows.append(await told(measure_bare(duration_s), "bare aiohttp", of=queries.what))
    rows.append(await told(measure_valkey(peers, duration_s), "GET from the cache itself", of=queries.what))
    return with_ratios(rows)


async def told(measuring: Awaitable[Peak], what: str, *, of: str) -> Row:
    """The row of a peer; when it cannot be measured, whatever the reason, the row says it."""
    try:
        peak = await measuring
    except Exception as error:  # noqa: BLE001 - a peer is a stranger's server: none of its errors may end the benchmark
        return Row(what, 0.0, f"not measured: {type(error).__name__}: {error}".replace("\n", " "), of)
    return Row(what, peak.per_s, peak.how, of)


def with_ratios(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows with what ours is in parts of each peer."""
    every = list(rows)
    own = {row.what: row.per_s for row in every if row.of is None}
    return [
        {
            "what": row.what,
            "per_s": round(row.per_s, 1),
            "ratio": f"{own[row.of] / row.per_s:.2f} x" if row.of and row.per_s else "-",
            "how": row.how,
        }
        for row in every
    ]


async def _own(workload: Workload, side: str, duration_s: float) -> Row:
    """Ours at saturation on the nodes of one region, so that one primary stands beside one primary."""
    region = next(iter(workload.deployment.regions))
    peak, _ = await measure_peak(workload.at_home(region, side), {}, duration_s)
    return Row(f"our {side} node", peak.per_s, f"HTTP, region {region}, {peak.how}")
