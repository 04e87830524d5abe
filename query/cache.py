"""Reads of one shard's Valkey: coalesced, bounded in time, and never a reason to fail.

None always means "not known here": the key is absent, or Valkey did not answer in time. It never
means that something does not exist; only a server of Postgres can say that.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from prometheus_client import Histogram
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from query.breaker import Breaker
from query.coalesce import Coalescer
from query.views import activity_key

CACHE_ERRORS: Final = (RedisError, OSError, TimeoutError)
_BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

BATCH_KEYS = Histogram("loyalty_query_batch_keys", "Keys per MGET.", buckets=_BATCH_BUCKETS, registry=None)

LATE_S: Final = 0.02
"""A timer that fires so much late tells of a busy event loop."""


class Recent(NamedTuple):
    """A slice of a member's recent entries: versions up to `top`, newest first."""

    member_id: int
    top: int
    length: int


class Cache:
    """One Valkey. Every answer may be older than the newest state, none is mixed from two members."""

    def __init__(self, url: str, *, deadline_ms: int, batch_keys_max: int) -> None:
        self._deadline_s = deadline_ms / 1000
        self.client = connect(url, timeout_s=self._deadline_s)
        self.breaker = Breaker(f"valkey {urlsplit(url).netloc.rpartition('@')[2]}", self._ping, failures=CACHE_ERRORS)
        self._line = Line(url, timeout_s=self._deadline_s)
        # One call at a time: while it is under way the next batch gathers, and fewer, larger calls cost less.
        self._values = Coalescer[str, bytes | None](self._fetch_values, batch_max=batch_keys_max, in_flight_max=1)
        self._recent = Coalescer[Recent, list[bytes] | None](self._fetch_recent, batch_max=batch_keys_max)

    def get(self, key: str) -> "asyncio.Future[bytes | None]":
        """Ask for the stored value of a key, header and body; what is asked in one turn travels in one MGET."""
        if self.breaker.is_open:
            unknown: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            unknown.set_result(None)
            return unknown
        return self._values.get(key)

    async def get_together(self, *keys: str) -> list[bytes | None]:
        """Read several values as of one instant."""
        return await asyncio.gather(*(self.get(key) for key in keys))

    async def recent(self, wanted: Recent) -> list[bytes] | None:
        """Read entries from the sorted set of recent ones, newest first."""
        return None if self.breaker.is_open else await self._recent.get(wanted)

    async def reachable(self) -> bool:
        """Tell whether Valkey answers right now."""
        try:
            await self._ping()
        except CACHE_ERRORS:
            return False
        return True

    async def close(self) -> None:
        """Stop probing and close the connections."""
        await self.breaker.close()
        await self._line.close()
        await self.client.aclose()

    async def _fetch_values(self, keys: list[str]) -> Sequence[bytes | None]:
        BATCH_KEYS.observe(len(keys))
        values = await self._within_deadline(self._line.call("MGET", *keys))
        return [None] * len(keys) if values is None else values

    async def _fetch_recent(self, wanted: list[Recent]) -> Sequence[list[bytes] | None]:
        pipeline = self.client.pipeline(transaction=False)
        for member_id, top, length in wanted:
            pipeline.execute_command("ZRANGE", activity_key(member_id), top, 0, "BYSCORE", "REV", "LIMIT", 0, length)
        answers = await self._within_deadline(pipeline.execute())
        return [None] * len(wanted) if answers is None else answers

    async def _within_deadline(self, call: Any) -> Any:
        """Await a call; None, and the breaker open, when it fails or takes too long.

        A deadline noticed late was missed by this process, not by Valkey: leaving Valkey alone would only help to
        drown the servers.
        """
        started_at = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call
        except CACHE_ERRORS as error:
            late_s = time.monotonic() - started_at - self._deadline_s
            if not (isinstance(error, TimeoutError) and late_s > LATE_S):
                self.breaker.trip(error)
            return None

    async def _ping(self) -> None:
        async with asyncio.timeout(self._deadline_s):
            await cast("Any", self.client.ping())


class Line:
    """One connection for one call at a time, below the client: it costs half of what a pooled call does.

    A call that does not end well closes the connection, so no later call can read its answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        client = Redis.from_url(url, socket_timeout=None, socket_connect_timeout=timeout_s, retry=None, protocol=2)
        self._connection: Any = client.connection_pool.make_connection()

    async def call(self, *words: str) -> Any:
        """Send a command and read its answer, connecting first where needed."""
        try:
            if not self._connection.is_connected:
                await self._connection.connect()
            await self._connection.send_command(*words)
            return await self._connection.read_response()
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)


def connect(url: str, *, timeout_s: float) -> "Redis":
    """Make a client that tries once and says so: when to try again is the breaker's decision."""
    return Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0), protocol=2
    )
