"""Posts shopping history through the command API: each shopper's events in order, many shoppers at once.

Each shopper has a queue of their own, and nobody waits for another's: with shoppers hashed to 64 lanes the fullest
held up the rest, and 44 posted at once. How many post at once follows what the system takes (halved by an "overloaded",
grown by success). A retryable problem is tried again with the same key, so nothing is done twice; a business "no" is
counted by its code and never tried again.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from benchmarks.board import Board
from benchmarks.deployment import Deployment
from benchmarks.history import Event, Purchase
from benchmarks.wire import Answer, Client, WireError, exchange

LOOK_AHEAD: Final = 512
"""Events read ahead: enough that so many others may post while a shopper waits, few enough that nobody is far ahead."""
AT_ONCE_PER_REGION: Final = 48  # what a node admits of earns even when it has cut its limit to one batch (admission.py)
_RETRYABLE_STATUS: Final = frozenset({409, 429, 500, 502, 503, 504})
_OVERLOADED: Final = frozenset({"overloaded", "rate_limited", "timeout"})
_BACKOFF_FIRST_S: Final = 0.05
_BACKOFF_MAX_S: Final = 2.0
_POLL_INTERVAL_S: Final = 0.005
_POLL_SHARE: Final = 0.05  # of the time waited so far: looking must not become the load when the lag is long


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """Where shops and shoppers are, and how much is looked at. `homes` holds those who are enrolled when first seen."""

    stores: Mapping[str, str]
    homes: Mapping[str, str]
    key_prefix: str = "replay"
    enrolment_prefix: str = "replay"
    read_share: float = 0.5
    probe_share: float = 0.05
    retry_for_s: float = 60.0
    probe_for_s: float = 10.0


class Window:
    """How many commands may be under way: halves at most once per answer time, and then grows by one per window.

    Until it is told for the first time that it is too large, it grows by one per success (slow start, RFC 5681).
    """

    def __init__(self, *, size: int, size_max: int, size_min: int = 2) -> None:
        self.size = float(size)
        self._size_max = size_max
        self._size_min = size_min
        self._used = 0
        self._halved_at = 0.0
        self._freed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self._freed:
            await self._freed.wait_for(lambda: self._used < int(self.size))
            self._used += 1

    async def __aexit__(self, *_: object) -> None:
        async with self._freed:
            self._used -= 1
            self._freed.notify(2)

    def succeeded(self) -> None:
        """Let a little more through."""
        self.size = min(self.size + (1 / self.size if self._halved_at else 1), self._size_max)

    def overloaded(self) -> None:
        """Let half as much through, unless that was just done."""
        now = time.monotonic()
        if now - self._halved_at > 1:
            self.size = max(self.size / 2, self._size_min)
            self._halved_at = now


class Replay:
    """One run over a deployment; numbers go to the board while it runs."""

    def __init__(self, deployment: Deployment, plan: ReplayPlan, board: Board) -> None:
        self._deployment = deployment
        self._plan = plan
        self._board = board
        self._window = Window(size=16, size_max=AT_ONCE_PER_REGION * len(deployment.regions))
        self._random = random.Random(1)
        self._default_region = next(iter(deployment.regions))
        self._members: dict[str, str] = {}
        self._purchases: dict[str, str] = {}
        self._aside: set[asyncio.Task[None]] = set()

    async def run(self, events: Iterable[Event]) -> None:
        """Post all events; returns when each is answered, refused or given up, and every look is done."""
        room = asyncio.Semaphore(LOOK_AHEAD)
        queues: dict[str, deque[Event]] = {}
        async with asyncio.TaskGroup() as group:
            for event in events:
                await room.acquire()
                if event.shopper in queues:
                    queues[event.shopper].append(event)
                else:
                    queues[event.shopper] = deque([event])
                    group.create_task(self._shop(event.shopper, queues, room))
        await asyncio.gather(*self._aside)

    async def _shop(self, shopper: str, queues: dict[str, deque[Event]], room: asyncio.Semaphore) -> None:
        """Post what a shopper has, one after another, until there is no more for now."""
        queue = queues[shopper]
        while queue:
            event = queue.popleft()
            await self._event(event)
            self._board.baskets += isinstance(event, Purchase)
            room.release()
        del queues[shopper]

    async def _event(self, event: Event) -> None:
        path, body = await self._request(event)
        if path is None:
            return
        region = self._plan.stores.get(event.store, self._default_region)
        answer = await self._command(region, path, body, key=f"{self._plan.key_prefix}-{event.key}")
        if answer is None:
            return
        document = orjson.loads(answer.body)
        if isinstance(event, Purchase):
            self._board.purchases += 1
            self._board.points += document["points_earned"]
            self._purchases[event.key] = document["purchase_id"]
        else:
            self._board.returns += 1
            self._board.points -= document["points_reversed"]
        self._board.last_member = document["account"]["member_id"]
        self._look(region, answer, document["account"])

    async def _request(self, event: Event) -> tuple[str | None, dict[str, Any]]:
        """Path and body of an event; no path when what it needs was refused before."""
        if not isinstance(event, Purchase):
            purchase_id = self._purchases.get(event.purchase_key)
            if purchase_id is None:
                self._board.problems["purchase was refused"] += 1
                return None, {}
            return f"/v1/purchases/{purchase_id}/returns", event.body
        if "member" in event.body:
            return "/v1/purchases", event.body
        member_id = await self._member(event.shopper)
        if member_id is None:
            self._board.problems["enrolment was refused"] += 1
            return None, {}
        return "/v1/purchases", {"member": {"member_id": member_id}, **event.body}

    async def _member(self, shopper: str) -> str | None:
        """The member id of a shopper, enrolled at home when first seen."""
        if shopper not in self._members:
            body = {"name": shopper.replace("-", " ").capitalize()}
            home, key = self._plan.homes[shopper], f"{self._plan.enrolment_prefix}-{shopper}"
            answer = await self._command(home, "/v1/members", body, key=key, counted=False)
            if answer is None:
                return None
            self._members[shopper] = orjson.loads(answer.body)["member_id"]
            self._board.enrolled += 1
        return self._members[shopper]

    async def _command(
        self, region: str, path: str, body: dict[str, Any], *, key: str, counted: bool = True
    ) -> Answer | None:
        """The answer of an accepted command; None when it was refused or given up, which is counted."""
        client = self._deployment.regions[region].command
        async with self._window:
            started_at = time.perf_counter()
            answer, code = await self._insist(client, path, body, key=key)
            if answer is None or code != "ok":
                self._board.problems[code] += 1
                return None
            if counted:
                decided_in = answer.header("Loyalty-Region")
                self._board.posted(region, time.perf_counter() - started_at, decided_in=decided_in)
            self._board.replayed += answer.header("Idempotent-Replayed") == "true"
            return answer

    async def _insist(self, client: Client, path: str, body: dict[str, Any], *, key: str) -> tuple[Answer | None, str]:
        """The first answer that is final, or the last problem when the time for retries is over."""
        give_up_at = time.monotonic() + self._plan.retry_for_s
        backoff_s = _BACKOFF_FIRST_S
        while True:
            answer, code = await exchange(client, client.command(path, body, key=key))
            if answer is not None and not _retryable(answer):
                self._window.succeeded()
                return answer, code
            if code in _OVERLOADED:
                self._window.overloaded()
            if time.monotonic() + backoff_s > give_up_at:
                return answer, code
            self._board.retried[code] += 1
            await asyncio.sleep(backoff_s * self._random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    def _look(self, region: str, answer: Answer, account: dict[str, Any]) -> None:
        """Let the shopper read their account now, and measure for some when the change becomes visible."""
        chance = self._random.random()
        token = answer.header("Consistency-Token")
        if token is not None and chance < self._plan.read_share:
            self._set_aside(self._read(region, account["member_id"], token))
        home = answer.header("Loyalty-Region") or region
        if chance > 1 - self._plan.probe_share and home in self._deployment.regions:
            self._set_aside(self._probe(home, account["member_id"], int(account["version"])))

    def _set_aside(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _read(self, region: str, member_id: str, token: str) -> None:
        """Read the account in the shop, with the token: the answer must be at least as new."""
        started_at = time.perf_counter()
        query = self._deployment.regions[region].query
        try:
            answer = await query.get(f"/v1/members/{member_id}/account", {"Consistency-Token": token})
        except WireError as error:
            self._board.problems[f"read: {error.kind}"] += 1
            return
        if answer.code == "ok":
            self._board.read(region, time.perf_counter() - started_at)
        else:
            self._board.problems[f"read: {answer.code}"] += 1

    async def _probe(self, home: str, member_id: str, version: int) -> None:
        lag_s = await visible_after(
            self._deployment.regions[home].query, member_id, version, timeout_s=self._plan.probe_for_s
        )
        if lag_s is None:
            self._board.problems["read: not visible in time"] += 1
        else:
            self._board.seen(home, lag_s)


async def visible_after(query: Client, member_id: str, version: int, *, timeout_s: float) -> float | None:
    """Seconds until the cache shows the version, from now (the command has just been answered); None when it never did.

    Asks without a token, as any other reader would: every 5 ms, less often the longer it takes (5 % exact).
    """
    started_at = time.perf_counter()
    request = query.request("GET", f"/v1/members/{member_id}/account", {})
    while time.perf_counter() - started_at < timeout_s:
        try:
            answer = await query.send(request)
        except WireError:
            return None
        elapsed_s = time.perf_counter() - started_at
        if version_of(answer) >= version and answer.header("Loyalty-Source") == "cache":
            return elapsed_s
        await asyncio.sleep(max(_POLL_INTERVAL_S, elapsed_s * _POLL_SHARE))
    return None


def version_of(answer: Answer) -> int:
    """The version an answer's ETag (`W/"7"`) names, 0 without one."""
    digits = (answer.header("ETag") or "").removeprefix("W/").strip('"')
    return int(digits) if digits.isdigit() else 0


def _retryable(answer: Answer) -> bool:
    if answer.status not in _RETRYABLE_STATUS:
        return False
    try:
        return bool(orjson.loads(answer.body)["retryable"])
    except (ValueError, KeyError, TypeError):
        return answer.status != 409  # noqa: PLR2004 - a conflict without a problem document is final
