"""What a query about a member costs a query node, of this tree and of others, beside bare aiohttp: CPU, in turn.

Nodes of all trees serve the same views from one Valkey on this machine (they need no Postgres), and are asked one after
another at a quiet rate and as fast as they answer; medians of rounds. CPU time of the serving thread, not the clock, so
that other work on the machine changes little.

    python -m benchmarks.query_cost redis://127.0.0.1:6379/0 [OTHER_TREE...] [--ask WHAT]
"""

import argparse
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import uvloop
from redis.asyncio import Redis

from benchmarks.bare import BODY
from benchmarks.cpu import thread_s
from benchmarks.load import Flow, Samples, Shoot, constant_schedule, drive, saturate
from benchmarks.peer import WORKERS, serving
from benchmarks.tree import Place, node_of, write_key
from benchmarks.wire import Client, exchange
from query.views import account_key, activity_key, header, profile_key
from shard_router.member_id import SLOT_COUNT, compose_member_id, format_member_id
from shard_router.token import TOKEN_HEADER, format_token

MEMBERS: Final = 1_000
ROUNDS: Final = 3
QUIET_PER_S: Final = 333.0
QUIET_S: Final = 3.0
BUSY_S: Final = 2.0
_ASKED: Final = "query"
VERSION: Final = 7
ASKED: Final = {"account": "/account", "token": "/account", "member": "", "activity": "/activity"}
"""What is below a member; `token`: the account, and no older than the version that the view shows."""
_OWN: Final = str(Path(__file__).parents[1])


PROFILE: Final = b'{"name":"Ada","phone":"+49301234567","email":"ada@example.com"}'
ENTRY: Final = b'{"version":%d,"kind":"purchase_recorded","points":12,"postings":[' + b" " * 300 + b"]}"


class Cost(NamedTuple):
    """Microseconds of CPU per query at a quiet rate and at the best, and how many were answered then."""

    quiet_us: float
    busy_us: float
    busy_per_s: float


class Subject(NamedTuple):
    """A server under measurement, and what is asked of it."""

    name: str
    pid: int
    client: Client
    requests: Sequence[bytes]

    async def shoot(self, number: int) -> str:
        """Ask about one member after another."""
        return (await exchange(self.client, self.requests[number % len(self.requests)]))[1]


async def compare(valkey: str, trees: Sequence[str], ask: str) -> dict[str, Cost]:
    """The costs of bare aiohttp, and of nodes of these trees."""
    members = [compose_member_id(1, slot=number % SLOT_COUNT, unique=number + 1) for number in range(MEMBERS)]
    paths = {member: f"/v1/members/{format_member_id(member)}{ASKED[ask]}" for member in members}
    headers = {member: {TOKEN_HEADER: format_token(member, VERSION)} if ask == "token" else {} for member in members}
    nowhere = [f"postgresql://nobody:{secrets.token_hex(4)}@127.0.0.1:1/none"]
    async with Redis.from_url(valkey) as client, AsyncExitStack() as stack:
        await _fill(client, members)
        for key_of in (account_key, profile_key, activity_key):
            stack.push_async_callback(client.delete, *map(key_of, members))
        place = Place(Path(stack.enter_context(tempfile.TemporaryDirectory())), nowhere, valkey)
        key = write_key(place)
        port, pid = await stack.enter_async_context(serving("benchmarks.bare"))
        bare = Client(f"http://127.0.0.1:{port}", key)
        stack.callback(bare.close)
        subjects = [Subject("bare aiohttp", pid, bare, [bare.request("GET", "/account", {})])]
        for tree in trees:
            # That others work on this machine must not be a reason to refuse.
            node = node_of(tree, "query", place, key, asked=paths[members[0]], overload_delay_ms=60_000)
            asked, pid = await stack.enter_async_context(node)
            requests = [asked.request("GET", paths[member], headers[member]) for member in members]
            subjects.append(Subject(tree, pid, asked, requests))
        return await _in_turn(subjects)


async def _fill(client: Redis, members: Sequence[int]) -> None:
    """Views of a few entries, as a new member has them."""
    await client.mset({account_key(member): header(VERSION) + BODY for member in members})
    await client.mset({profile_key(member): header(1) + PROFILE for member in members})
    for member in members:
        await client.zadd(activity_key(member), {ENTRY % version: version for version in range(1, VERSION + 1)})


async def _in_turn(subjects: Sequence[Subject]) -> dict[str, Cost]:
    rounds: dict[str, list[Cost]] = {subject.name: [] for subject in subjects}
    for _ in range(ROUNDS):
        for subject in subjects:
            quiet_us, _ = await _measure(subject, quiet(subject.shoot))
            busy_us, per_s = await _measure(subject, saturate(subject.shoot, workers=WORKERS, duration_s=BUSY_S))
            rounds[subject.name].append(Cost(quiet_us, busy_us, per_s))
    return {name: Cost(*(median(column) for column in zip(*costs, strict=True))) for name, costs in rounds.items()}


async def _measure(subject: Subject, load: Awaitable[tuple[float, Samples]]) -> tuple[float, float]:
    """CPU of the serving thread for an answer, and answers a second."""
    began_s = thread_s(subject.pid)
    per_s, samples = await load
    if samples.errors:
        raise SystemExit(f"{subject.name}: {dict(samples.errors)}")
    return 1e6 * (thread_s(subject.pid) - began_s) / len(samples.latency_us), per_s


async def quiet(shoot: Shoot) -> tuple[float, Samples]:
    """Ask at a quiet rate; answers a second, and what was measured."""
    flow = Flow(constant_schedule(QUIET_PER_S, QUIET_S), shoot, lambda _: _ASKED)
    run = await drive([flow], duration_s=QUIET_S)
    return QUIET_PER_S, run.of(_ASKED)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("valkey")
    parser.add_argument("trees", nargs="*")
    parser.add_argument("--ask", choices=ASKED, default="account")
    given = parser.parse_args()
    trees = [_OWN, *(str(Path(other).resolve()) for other in given.trees)]
    costs = uvloop.run(compare(given.valkey, trees, given.ask))
    bare = next(iter(costs.values()))
    for name, cost in costs.items():
        sys.stdout.write(
            f"{name}: {cost.quiet_us:.0f} us at {QUIET_PER_S:.0f}/s, {cost.busy_us:.0f} us at {cost.busy_per_s:.0f}/s; "
            f"beside bare aiohttp {cost.quiet_us / bare.quiet_us:.2f}, {cost.busy_us / bare.busy_us:.2f}, "
            f"rate {cost.busy_per_s / bare.busy_per_s:.2f}\n"
        )


if __name__ == "__main__":
    main()
