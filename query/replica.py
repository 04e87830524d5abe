"""Reads of one shard's Postgres servers: the hot standby as a rule, the primary as a counted last resort.

A server that just failed, or that lags beyond the budget, is left alone for a moment, so that its
trouble costs a request now and then instead of every one.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import structlog
from prometheus_client import Counter

from query.coalesce import Coalescer
from shard_router.ending import end
from shard_router.errors import ProblemError
from shard_router.pool import Connection, ShardServers
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("replica.sql"))
PRIMARY_READS: Final = Counter(
    "loyalty_query_primary_reads", "Reads that neither Valkey nor a standby could answer.", registry=None
)
_REST_S: Final = 1.0  # how long a server that failed is left alone, and how long a measured lag counts
_ANSWER_MARGIN_S: Final = 0.25
_MEASURE_TIMEOUT_S: Final = 0.5  # who takes longer to say how far behind it is, is not the one to ask
_ACCOUNTS_MAX: Final = 256  # per statement: about a millisecond of one backend
_SERVER_BUSY: Final = (
    asyncpg.SerializationError,  # 40001: replay needed what the query was reading
    asyncpg.DeadlockDetectedError,  # 40P01: the same, found by the deadlock check
    asyncpg.QueryCanceledError,  # statement_timeout
)

Role = Literal["replica", "primary"]


class Server:
    """The standby or the primary of a shard. Its answers are rows; `shard_unavailable` when it has none to give."""

    def __init__(self, servers: ShardServers, role: Role, *, lag_ms_max: int, timeout_ms: int) -> None:
        """`timeout_ms` is the servers' own limit of a statement: past it, only a frozen one has not answered."""
        self.role: Final = role
        self._servers = servers
        self._timeout_s = timeout_ms / 1000 + _ANSWER_MARGIN_S
        self._lag_ms_max = lag_ms_max
        self._resting_until = 0.0
        self._lag_ms = 0
        self._measured_at = -math.inf
        self._has_failed = False
        """Whether it gave no answer since it was measured last: then nobody waits for it until it was measured."""
        self._measuring: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._accounts = Coalescer[int, Any](self._fetch_accounts, batch_max=_ACCOUNTS_MAX)

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """Rows of a named statement."""
        rows = await self._fetch(statement, arguments, self._timeout_s)
        if self.role == "primary":
            PRIMARY_READS.inc()
        return rows

    async def account(self, member_id: int) -> Any:
        """Row of find_accounts for one member, or None; asked together with others of this moment."""
        return await self._accounts.get(member_id)

    async def within_budget(self) -> bool:
        """Tell whether this server is there and not too far behind; measured once a second.

        One that failed is measured aside: else whoever asks meanwhile waits until it is silent once more.
        """
        if self._is_due():
            measuring = self._measure_aside()
            if not self._has_failed:
                await asyncio.shield(measuring)
        return self._is_well()

    async def is_there(self) -> bool:
        """Tell the same of one that failed too, however long that takes."""
        if self._measuring or self._is_due():
            await asyncio.shield(self._measure_aside())
        return self._is_well()

    async def close(self) -> None:
        """Measure no more."""
        if self._measuring is not None:
            await end(self._measuring)

    async def look_again(self) -> None:
        """Ask the servers again who of them is the primary."""
        await self._servers.look_again()

    def _is_due(self) -> bool:
        now = time.monotonic()
        return now - self._measured_at >= _REST_S and now >= self._resting_until

    def _is_well(self) -> bool:
        is_here = not self._has_failed and time.monotonic() >= self._resting_until
        return is_here and self._lag_ms <= self._lag_ms_max

    def _measure_aside(self) -> asyncio.Task[None]:
        if self._measuring is None:
            self._measured_at = time.monotonic()  # first: one asks, the others go by what was known
            self._measuring = asyncio.get_running_loop().create_task(self._measure())
            self._measuring.add_done_callback(self._measured)
        return self._measuring

    def _measured(self, _done: object) -> None:
        self._measuring = None

    async def _measure(self) -> None:
        try:
            (row,) = await self._fetch("measure_lag", (self._servers.standby_ahead_s,), _MEASURE_TIMEOUT_S)
        except ProblemError as error:
            self._tell(error.detail)
        else:
            self._lag_ms, self._has_failed = row["lag_ms"], False
            self._tell(None)

    async def _fetch(self, statement: str, arguments: Sequence[object], timeout_s: float) -> list[Any]:
        if time.monotonic() < self._resting_until:
            raise ProblemError("shard_unavailable", f"{self._servers.name}: the {self.role} is resting")
        try:
            async with self._connection() as connection:
                return await _rows(connection, statement, arguments, timeout_s)
        except ProblemError:
            self._resting_until, self._has_failed = time.monotonic() + _REST_S, True
            raise
        except _SERVER_BUSY as error:
            raise ProblemError("shard_unavailable", f"{self._servers.name}: the {self.role} is busy") from error

    def _tell(self, trouble: str | None) -> None:
        """Log when trouble begins or ends, not as long as it lasts."""
        if (trouble is None) != (self._trouble is None):
            log = structlog.get_logger()
            (log.warning if trouble else log.info)(
                "server_state", shard=self._servers.name, role=self.role, trouble=trouble
            )
        self._trouble = trouble

    def _connection(self) -> AbstractAsyncContextManager[Connection]:
        return self._servers.primary() if self.role == "primary" else self._servers.standby()

    async def _fetch_accounts(self, member_ids: list[int]) -> Sequence[Any]:
        rows = await self.fetch("find_accounts", list(dict.fromkeys(member_ids)))
        found = {row["member_id"]: row for row in rows}
        return [found.get(member_id) for member_id in member_ids]


async def _rows(connection: Connection, statement: str, arguments: Sequence[object], timeout_s: float) -> list[Any]:
    try:
        return await connection.fetch(STATEMENTS[statement], *arguments, timeout=timeout_s)
    except TimeoutError:
        connection.terminate()  # giving it back would wait until the silent server has taken the cancellation
        raise
