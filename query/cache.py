"""Reads of one shard's Valkey: coalesced, bounded in time, and never a reason to fail.

None always means "not known here": the key is absent, or Valkey did not answer in time. It never
means that something does not exist; only a server of Postgres can say that.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from query.breaker import Breaker
from query.coalesce import Coalescer
from query.near import NearCache
from query.valkey import ValkeyConnection
from query.views import DAMAGED_CHANNEL, activity_key

CACHE_ERRORS: Final = (RedisError, OSError, TimeoutError)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_REPORT_PAUSE_S: Final = 0.05
DAMAGED = Counter("loyalty_query_damaged_views", "Views that could not be parsed, and counted as none.", registry=None)
BATCH_KEYS = Histogram("loyalty_query_batch_keys", "Keys per MGET.", buckets=_BATCH_BUCKETS, registry=None)


class Recent(NamedTuple):
    """A slice of a member's recent entries: versions up to `top`, newest first."""

    member_id: int
    top: int
    length: int


class Cache:
    """One Valkey. Every answer may be older than the newest state, none is mixed from two members."""

    def __init__(self, url: str, *, deadline_ms: int, batch_keys_max: int, near: NearCache | None = None) -> None:
        """`near` keeps what is read here."""
        self.near = near
        self._deadline_s = deadline_ms / 1000
        self.client = connect(url, timeout_s=self._deadline_s)
        self.breaker = Breaker(f"valkey {urlsplit(url).netloc.rpartition('@')[2]}", self._ping)
        self._connection = ValkeyConnection(url, timeout_s=self._deadline_s)
        self._reported_at = -math.inf
        self._reports: set[asyncio.Task[None]] = set()
        # One call at a time: while it is under way the next batch gathers, and fewer, larger calls cost less.
        self._values = Coalescer[str, bytes | None](
            self._fetch_values, batch_max=batch_keys_max, in_flight_max=1, instead=self._unknown
        )
        self._recent = Coalescer[Recent, list[bytes] | None](
            self._fetch_recent, batch_max=batch_keys_max, instead=self._unknown
        )

    def get(self, key: str) -> "asyncio.Future[bytes | None]":
        """Ask for the stored value of a key, header and body; what is asked in one turn travels in one MGET."""
        if self.breaker.is_open:
            unknown: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            unknown.set_result(None)
            return unknown
        return self._values.get(key)

    def tell(self, key: str, told: Callable[[bytes | None], object]) -> None:
        """The same for who is told in the turn in which the answer comes, and never in this one."""
        if self.breaker.is_open:
            asyncio.get_running_loop().call_soon(told, None)
        else:
            self._values.tell(key, told)

    async def get_together(self, *keys: str) -> list[bytes | None]:
        """Read several values, none older than the one before it: nearly always as of one instant."""
        asked = [self.get(key) for key in keys]
        return [await one for one in asked]

    async def recent(self, wanted: Recent) -> list[bytes] | None:
        """Read entries from the sorted set of recent ones, newest first."""
        return None if self.breaker.is_open else await self._recent.get(wanted)

    def report(self, key: str) -> None:
        """Tell the projector, now and then, of a view that cannot be parsed: it looks for itself."""
        DAMAGED.inc()
        now = time.monotonic()
        if now - self._reported_at < _REPORT_PAUSE_S:
            return
        self._reported_at = now
        structlog.get_logger().warning("view_damaged", kind=key[:1])  # the rest may hold a phone number
        task = asyncio.get_running_loop().create_task(self._publish(key))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _publish(self, key: str) -> None:
        with suppress(*CACHE_ERRORS):
            await cast("Any", self.client.publish(DAMAGED_CHANNEL, key))

    async def reachable(self) -> bool:
        """Tell whether Valkey answers right now."""
        try:
            await self._ping()
        except CACHE_ERRORS:
            return False
        return True

    async def close(self) -> None:
        """Stop probing and close the connections; whoever still asks gets to know nothing."""
        await self.breaker.close()
        await self._connection.close()
        await self.client.aclose()

    def _fetch_values(self, keys: list[str]) -> "asyncio.Future[Sequence[bytes | None]]":
        BATCH_KEYS.observe(len(keys))
        call = self._connection.ask_one("MGET", *keys)
        if self.near is not None and (ticket := self.near.ticket) is not None:
            call.add_done_callback(partial(self._keep, self.near, ticket, keys))
        return call

    @staticmethod
    def _keep(near: NearCache, ticket: int, keys: list[str], call: "asyncio.Future[Sequence[bytes | None]]") -> None:
        if not call.cancelled() and call.exception() is None:
            near.keep(ticket, keys, call.result())

    async def _fetch_recent(self, wanted: list[Recent]) -> list[list[bytes] | None]:
        replies = await self._connection.ask(
            [
                ("ZRANGE", activity_key(member_id), top, 0, "BYSCORE", "REV", "LIMIT", 0, length)
                for member_id, top, length in wanted
            ]
        )
        return [_items(reply) for reply in replies]

    def _unknown(self, error: BaseException) -> None:
        """Leave Valkey alone for a while, whatever went wrong; meanwhile nothing is known here."""
        self.breaker.trip(error)

    async def _ping(self) -> None:
        async with asyncio.timeout(self._deadline_s):
            await cast("Any", self.client.ping())


def _items(reply: Any) -> list[bytes]:
    """The entries of a list; of what is none, one that cannot be parsed."""
    if not isinstance(reply, ResponseError):
        return reply
    if str(reply).startswith("WRONGTYPE"):
        return [b"null"]
    raise reply


def connect(url: str, *, timeout_s: float) -> "Redis":
    """Make a client that tries once and says so: when to try again is the breaker's decision."""
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,  # else it reads its wheel for each connection, to tell Valkey its version
    )
