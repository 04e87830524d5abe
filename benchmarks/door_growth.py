"""A region that joins while clients of the door ask: `python -m benchmarks.door_growth --data DIR --region sa`.

Clients enrol by phone, earn and read through the door, one request after the other, before, while and after
`loyalty region add` runs on a running system. Each answer that is not what was asked for counts as failed.
"""

import argparse
import asyncio
import itertools
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from benchmarks.chaos_world import World
from benchmarks.door import System
from benchmarks.wire import Answer, WireError

CLIENTS: Final = 4
AROUND_S: Final = 3.0
"""How long clients ask before the region is added, and once it has all its share."""


class Clients:
    """What they asked, what failed by its code, and the longest time that one waited, in seconds."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._name = secrets.token_hex(4)
        self.asked = 0
        self.failed: Counter[str] = Counter()
        self.longest_s = 0.0
        self.ends = False

    async def work(self, client: int) -> None:
        """One after the other, until it ends."""
        door = self._system.door
        for number in itertools.count():
            if self.ends:
                return
            key = f"growth-{self._name}-{client}-{number}"
            phone = f"+4930{secrets.randbelow(10**9):09}"
            if (enrolled := await self._ask(door.post("/v1/members", {"phone": phone}, key=key))) is None:
                continue
            member = json.loads(enrolled.body)["member_id"]
            given = {"member": {"member_id": member}, "points": 7, "reason": "growth"}
            await self._ask(door.post("/v1/adjustments", given, key=f"{key}-points"))
            await self._ask(door.get(f"/v1/members/{member}/account"))

    async def _ask(self, asking: Awaitable[Answer]) -> Answer | None:
        begun = time.perf_counter()
        self.asked += 1
        try:
            answer = await asking
        except (WireError, OSError) as error:
            code, answer = str(error) or type(error).__name__, None
        else:
            code = answer.code
        self.longest_s = max(self.longest_s, time.perf_counter() - begun)
        if code == "ok":
            return answer
        self.failed[code] += 1
        return None


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Data folder of a running system with a door.")
    parser.add_argument("--region", required=True, help="The region to add.")
    words = parser.parse_args()
    world = World(words.data, ())
    clients = Clients(System(world, await world.status()))
    working = [asyncio.create_task(clients.work(number)) for number in range(CLIENTS)]
    await asyncio.sleep(AROUND_S)
    begun = time.perf_counter()
    code, told = await world.loyalty("region", "add", words.region)
    took_s = time.perf_counter() - begun
    await asyncio.sleep(AROUND_S)
    clients.ends = True
    await asyncio.gather(*working)
    sys.stdout.write(f"{told.strip()}\n{took_s:.1f} s until it has its whole share; {clients.asked} asked, ")
    sys.stdout.write(f"failed: {dict(clients.failed) or 'none'}, longest {clients.longest_s:.2f} s\n")
    raise SystemExit(code)


if __name__ == "__main__":
    asyncio.run(_main())
