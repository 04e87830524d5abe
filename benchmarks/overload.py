"""A flood of purchases at three and ten times what a region takes: what still gets done, how soon, and what a no costs.

The generator shares this machine, so each stretch tells its CPU beside that of the system (node, backends, standby,
projector, Valkey: every process under the data folder's supervisor). What stands up on a busy machine is goodput per
CPU second of the system against that at the peak; rates beside it are those of these minutes.

    loyalty up --regions eu --detach; loyalty status --json | python -m benchmarks.overload --seconds 8
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from benchmarks.deployment import Deployment
from benchmarks.latency import Latency
from benchmarks.scenario import Traffic
from benchmarks.workload import Workload, prepare

PEAK_CONNECTIONS: Final = 64
FLOOD_CONNECTIONS: Final = 512
_TICK_S: Final = 0.002
_SETTLE_S: Final = 1.0  # of each stretch, before anything is counted: limits find their value
_WINDOW_S: Final = 0.25
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Stretch:
    """What one stretch of load showed; latencies in microseconds from when a request was written."""

    name: str
    offered: int = 0
    unsent: int = 0
    codes: Counter[int] = field(default_factory=Counter[int])
    accepted_us: list[int] = field(default_factory=list[int])
    refused_us: list[int] = field(default_factory=list[int])
    done_at: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def per_s(self) -> float:
        """Purchases done in a second."""
        return len(self.accepted_us) / self.seconds

    @property
    def per_cpu_s(self) -> float:
        """Purchases done in a CPU second of the system."""
        return len(self.accepted_us) / sum(used for name, used in self.cpu.items() if name != "generator")


class Caller(asyncio.Protocol):
    """A connection that sends one request after another, each when it is told to."""

    def __init__(self, flood: "Flood") -> None:
        self._flood = flood
        self._sent_at = 0.0
        self._got = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = transport
        self._flood.free.append(self)

    def send(self, request: bytes) -> None:
        """Ask."""
        self._sent_at, self._got = time.perf_counter(), b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take the answer, when it is whole."""
        self._got += data
        head_end = self._got.find(b"\r\n\r\n")
        if head_end < 0:
            return
        start = self._got.find(b"Content-Length: ") + 16
        if len(self._got) >= head_end + 4 + int(self._got[start : self._got.find(b"\r", start)]):
            self._flood.answered(self, int(self._got[9:12]), time.perf_counter() - self._sent_at)


class Flood:
    """Open load over a fixed number of connections: what finds none free is not sent, and counted."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self.free: list[Caller] = []
        self._stretch: Stretch | None = None
        self._closed_loop = False

    async def connect(self, host: str, port: int, count: int) -> None:
        """Open connections."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            await loop.create_connection(lambda: Caller(self), host, port)

    def answered(self, caller: Caller, status: int, took_s: float) -> None:
        """Note an answer, and ask again in a closed loop."""
        if (stretch := self._stretch) is not None:
            stretch.codes[status] += 1
            (stretch.accepted_us if status < 300 else stretch.refused_us).append(int(took_s * 1e6))  # noqa: PLR2004
            if status < 300:  # noqa: PLR2004
                stretch.done_at.append(time.perf_counter())
        if self._closed_loop:
            caller.send(next(self._requests))
        else:
            self.free.append(caller)

    async def saturate(self, stretch: Stretch, seconds: float, pids: dict[str, list[int]]) -> Stretch:
        """As much as the connections get through in a closed loop."""
        self._closed_loop = True
        for _ in range(min(PEAK_CONNECTIONS, len(self.free))):
            self.free.pop().send(next(self._requests))
        await self._measure(stretch, seconds, pids, asyncio.sleep(seconds + _SETTLE_S))
        self._closed_loop = False
        await asyncio.sleep(_SETTLE_S)
        return stretch

    async def at(
        self, rate: float, stretch: Stretch, seconds: float, pids: dict[str, list[int]], *, settle_s: float = _SETTLE_S
    ) -> Stretch:
        """A rate, whatever the answers do."""
        load = self._send(rate, seconds + settle_s, stretch)
        await self._measure(stretch, seconds, pids, load, settle_s=settle_s)
        return stretch

    async def _send(self, rate: float, seconds: float, stretch: Stretch) -> None:
        began, sent = time.perf_counter(), 0
        while (now := time.perf_counter() - began) < seconds:
            due = int(now * rate) - sent
            sent += due
            for _ in range(due):
                stretch.offered += 1
                if self.free:
                    self.free.pop(0).send(next(self._requests))
                else:
                    stretch.unsent += 1
            await asyncio.sleep(_TICK_S)

    async def _measure(
        self, stretch: Stretch, seconds: float, pids: dict[str, list[int]], load: Any, *, settle_s: float = _SETTLE_S
    ) -> None:
        running = asyncio.ensure_future(load)
        await asyncio.sleep(settle_s)
        stretch.offered = stretch.unsent = 0
        began, before = time.perf_counter(), _cpu(pids)
        self._stretch = stretch
        await asyncio.sleep(seconds)
        self._stretch = None
        stretch.seconds = time.perf_counter() - began
        stretch.cpu = {name: used - before[name] for name, used in _cpu(pids).items()}
        await running


def _cpu(pids: dict[str, list[int]]) -> dict[str, float]:
    """CPU seconds by part; of Postgres all backends of a server together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {name: sum(map(_cpu_of, group)) for name, group in pids.items()} | {
        "generator": usage.ru_utime + usage.ru_stime
    }


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process and of its children, ended ones too."""
    own = 0.0
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = sum(map(int, stat[11:15])) / _TICKS
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return own
    return own + sum(_cpu_of(int(child)) for child in children)


def _processes(data: str) -> dict[str, list[int]]:
    """Processes whose command line names the data folder, by what they are."""
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
        part = next((name for name in ("command", "query", "cdc") if f"-m {name} " in words), None)
        part = part or ("postgres" if "bin/postgres -D" in words else None)
        if part and data in words:
            found.setdefault(part, []).append(int(folder.name))
    return found


def _requests(workload: Workload) -> Iterator[bytes]:
    """Purchases of one line, each another one; the text around what differs is made once."""
    client = next(iter(workload.deployment.regions.values())).command
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    store = next(iter(workload.stores.values()))[0]
    mark, members = workload.run_id, [member.member_id.encode() for member in workload.members]
    for number in itertools.count(10_000_000):
        body = (
            b'{"member":{"member_id":"%b"},"store":"%b","till":"%b","receipt":"%d","occurred_at":"%b",'
            b'"currency":"EUR","lines":[{"sku":"milk","quantity":1,"amount":1299,"category":"dairy"}]}'
            % (members[number % len(members)], store.encode(), mark.encode(), number, at.encode())
        )
        yield client.request("POST", "/v1/purchases", {"Idempotency-Key": f"flood-{mark}-{number}"}, body)


def _recovered_after_s(stretch: Stretch, rate: float) -> float | None:
    """When, from the end of the flood, a window first does 95 % of what is asked, and each later one too."""
    began = stretch.done_at[0] if stretch.done_at else 0.0
    windows = Counter(int((at - began) / _WINDOW_S) for at in stretch.done_at)
    enough = [windows[number] >= 0.95 * rate * _WINDOW_S for number in range(int(stretch.seconds / _WINDOW_S) - 1)]
    bad = [number for number, good in enumerate(enough) if not good]
    return (bad[-1] + 1) * _WINDOW_S if bad else 0.0


def _line(stretch: Stretch, peak: Stretch) -> str:
    accepted, refused = Latency(stretch.accepted_us), Latency(stretch.refused_us)
    cpu = " ".join(f"{name} {used / stretch.seconds:.2f}" for name, used in stretch.cpu.items())
    unanswered = stretch.offered - stretch.unsent - sum(stretch.codes.values())
    return (
        f"{stretch.name:8} offered {stretch.offered / stretch.seconds:7.0f}/s (unsent {stretch.unsent}), done "
        f"{stretch.per_s:6.0f}/s = {stretch.per_s / peak.per_s:.2f} of peak, per CPU second {stretch.per_cpu_s:.0f} = "
        f"{stretch.per_cpu_s / peak.per_cpu_s:.2f}; accepted p50 {accepted.at_ms(50):.1f} p99 "
        f"{accepted.at_ms(99):.1f} ms; refused {len(stretch.refused_us)} p50 "
        f"{refused.at_ms(50):.1f} p99 {refused.at_ms(99):.1f} ms; "
        f"codes {dict(stretch.codes)} open {unanswered}; cores: {cpu}\n"
    )


async def main(seconds: float, status: dict[str, Any]) -> None:
    """Measure all stretches and print a line for each."""
    deployment = Deployment.of_status(status)
    workload = await prepare(deployment, Traffic(), seed=1)
    client = next(iter(deployment.regions.values())).command
    pids = _processes(status["data"])
    flood = Flood(_requests(workload))
    host, _, port = client.base_url.partition("://")[2].partition(":")
    await flood.connect(host, int(port), FLOOD_CONNECTIONS)
    peak = await flood.saturate(Stretch("peak"), seconds, pids)
    sys.stdout.write(_line(peak, peak))
    for name, factor in (("0.8 x", 0.8), ("3 x", 3.0), ("10 x", 10.0)):
        stretch = await flood.at(factor * peak.per_s, Stretch(name), seconds, pids)
        sys.stdout.write(_line(stretch, peak))
    rate = 0.8 * peak.per_s
    after = await flood.at(rate, Stretch("after"), seconds, pids, settle_s=0.0)
    sys.stdout.write(_line(after, peak) + f"recovered after {_recovered_after_s(after, rate)} s\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    uvloop.run(main(parser.parse_args().seconds, cast("dict[str, Any]", json.load(sys.stdin))))
