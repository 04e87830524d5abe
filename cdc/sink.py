"""Applies operations to Valkey exactly once, and holds out while Valkey is away.

A session is one connection under one epoch. Whatever breaks a connection ends the session, and the next one asks
anew whether this is the Valkey it knew: a restart cannot hide behind a reconnection. `apply` returns only when the
batch is in Valkey; while it does not return nothing is acknowledged and Postgres keeps the WAL.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from cdc.project import Operations
from query.views import VISIBLE_CHANNEL, is_readable
from shard_router.errors import LoyaltyError

OPERATIONS_PER_CALL: Final = 500  # about 2 ms of Valkey, during which no query is served
CONNECT_TIMEOUT_S: Final = 1.0
CALL_TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0

_ORDER: Final = ("views", "entries", "identifiers", "accounts")

Result = TypeVar("Result")

FUNCTIONS: Final = Path(__file__).with_name("apply.lua").read_text(encoding="utf-8")


class Fenced(LoyaltyError):  # noqa: N818 - it tells what happened
    """Another session has taken over: this one must not write any more."""


class Emptied(LoyaltyError):  # noqa: N818
    """The mark is gone, and with it all that was applied."""


class Stopped(LoyaltyError):  # noqa: N818
    """`stop` was called before the batch could be applied."""


class Position(NamedTuple):
    """Which database the stream comes from, and from where its slot would resume (None: known to follow on).

    `ends_at` is how far that database's WAL goes: views of more are of a past that a failover took back.
    """

    system: str
    resumes_at: int | None
    ends_at: int | None = None


class Progress(NamedTuple):
    """How far the stream has come: all changes up to the watermark are applied, the newest committed at that time."""

    watermark: int
    committed_at_us: int


class Outcome(NamedTuple):
    """What a call could not do."""

    failed: list[str]
    """Keys that could not be written, and why."""
    higher: dict[str, bytes]
    """Only of a refill: keys whose stored value is newer than the row that was read, with that value."""


class Session:
    """One connection to Valkey, writing under one epoch."""

    def __init__(self, url: str, mark: str, *, epoch: str = "") -> None:
        self._redis = Redis.from_url(
            url,
            single_connection_client=True,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            driver_info=None,  # as in query/cache.py
        )
        self._mark = mark
        self.epoch = epoch
        self.incomplete = ""
        """Why views may be missing or stale; empty when they are complete."""
        self.committed_at_us = 0
        """Commit time of the newest change applied before this session."""

    def open(self, position: Position) -> Self:
        """Become the only writer: take over, or go on with the epoch held before. Fenced when that was taken."""
        self._redis.execute_command("FUNCTION", "LOAD", "REPLACE", FUNCTIONS)
        self._forget_other_database(position.system)
        run_id = self._redis.info("server")["run_id"]
        resumes_at = "" if position.resumes_at is None else position.resumes_at
        ends_at = "" if position.ends_at is None else position.ends_at
        now_ms = int(time.time() * 1000)
        epoch, why, committed_at_us = self._call(
            "loyalty_open", [], [run_id, position.system, resumes_at, now_ms, self.epoch, ends_at]
        )
        self.epoch, self.incomplete, self.committed_at_us = epoch.decode(), why.decode(), int(committed_at_us)
        return self

    def watermark(self, system: str) -> int:
        """Up to where in the WAL of this database the views have come; 0 where they are of another, or of none."""
        known, shown = cast("list[bytes | None]", self._redis.hmget(self._mark, ["system", "watermark"]))
        return int(shown or 0) if known == system.encode() else 0

    def apply(self, operations: Operations, progress: Progress) -> list[str]:
        """Apply a batch of the stream; tells the keys that could not be written, and why."""
        *parts, last = _parts(operations, OPERATIONS_PER_CALL)
        failed: list[str] = []
        for part in parts:
            failed += self._apply(part).failed
        announcement = " ".join(f"{member}:{version}" for member, version in operations.visible.items())
        return failed + self._apply(last, progress=progress, announcement=announcement).failed

    def refill(self, operations: Operations) -> Outcome:
        """Apply rows read from the tables, repairing views of the same version; neither announced nor a watermark."""
        outcome = Outcome([], {})
        for part in _parts(operations, OPERATIONS_PER_CALL):
            failed, higher = self._apply(part, repair="1")
            outcome.failed.extend(failed)
            outcome.higher.update(higher)
        return outcome

    def stored(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that have one."""
        values = cast("list[bytes | None]", self._redis.mget(keys)) if keys else []
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def lower(self, values: Mapping[str, bytes], seen: Mapping[str, bytes]) -> list[str]:
        """Put lower values (b"" for none) where the views still are as seen; tells where that was done.

        From then on the views count as incomplete: what the stream brought meanwhile was refused, so read once more.
        """
        lowered: list[str] = []
        pairs = iter(values.items())
        while some := dict(islice(pairs, OPERATIONS_PER_CALL)):
            args = [part for key, value in some.items() for part in (seen[key], value)]
            lowered += (key.decode() for key in self._call("loyalty_lower", [*some], [self.epoch, *args]))
        return lowered

    def discard(self, keys: Sequence[str]) -> list[str]:
        """Take out those of these views that cannot be parsed, and lists as they are; tells which there were."""
        stored = self.stored([key for key in keys if not key.startswith("e:")])
        damaged = [key for key in keys if key not in stored or not is_readable(key, stored[key])]
        if not damaged:
            return []
        seen = [stored.get(key, b"") for key in damaged]
        return [key.decode() for key in self._call("loyalty_discard", damaged, [self.epoch, *seen])]

    def complete(self) -> None:
        """Declare that every view is there."""
        self._call("loyalty_complete", [], [self.epoch])

    def keys(self, pattern: str, count: int) -> Iterator[list[str]]:
        """Keys of a pattern, some at a time."""
        found = (key.decode() for key in self._redis.scan_iter(pattern, count=count))
        while chunk := list(islice(found, count)):
            yield chunk

    def close(self) -> None:
        """Hang up."""
        self._redis.close()

    def _forget_other_database(self, system: str) -> None:
        """Remove every view when the mark tells of another database; the mark last, so that a crash repeats it."""
        known = cast("bytes | None", self._redis.hget(self._mark, "system"))
        if known is None or known.decode() == system:
            return
        structlog.get_logger().warning("views_of_another_database_removed", known=known.decode(), system=system)
        for pattern in ("[aempi]:*", "gone:*"):
            for chunk in self.keys(pattern, OPERATIONS_PER_CALL):
                self._redis.unlink(*chunk)
        self._redis.delete(self._mark)

    def _apply(
        self, part: Operations, *, progress: Progress | None = None, announcement: str = "", repair: str = ""
    ) -> Outcome:
        views = part.views | part.accounts
        keys = [*views, *(key for key, _ in part.entries), *part.identifiers]
        args: list[Any] = [self.epoch, repair, *(progress or ("", "")), VISIBLE_CHANNEL, announcement]
        args += (len(views), len(part.entries), *views.values())
        for (_, version), item in part.entries.items():
            args += (version, item)
        args += part.identifiers.values()
        failed, higher = self._call("loyalty_apply", keys, args)
        pairs = zip(higher[::2], higher[1::2], strict=True)
        return Outcome([failure.decode() for failure in failed], {key.decode(): value for key, value in pairs})

    def _call(self, function: str, keys: list[str], args: list[Any]) -> Any:
        try:
            return self._redis.execute_command("FCALL", function, len(keys) + 1, self._mark, *keys, *args)
        except ResponseError as error:
            refusal = {"FENCED": Fenced, "EMPTIED": Emptied}.get(str(error).partition(" ")[0])
            if refusal:
                raise refusal(str(error)) from error
            raise


class Sink:
    """The stream's way into Valkey: one session at a time, renewed whenever it breaks."""

    def __init__(self, url: str, mark: str, *, on_epoch: Callable[[str], None]) -> None:
        """`on_epoch` hears with each new epoch why views are incomplete ('' when they are not), on this thread."""
        self._url = url
        self._mark = mark
        self._on_epoch = on_epoch
        self._session: Session | None = None
        self._system = ""
        self._stopping = threading.Event()
        self.epoch = ""
        self.trouble = ""
        """What keeps batches from being applied; empty when nothing does."""

    def open(self, position: Position) -> Session:
        """Take over; waits for Valkey as long as it takes, Stopped after `stop`."""
        self._system = position.system
        return self._until_done(lambda: self._open(position))

    def watermark(self, system: str) -> int:
        """Up to where in the WAL of this database the views have come, before anybody writes; waits for Valkey."""
        return self._until_done(lambda: self._read_watermark(system))

    def _read_watermark(self, system: str) -> int:
        session = Session(self._url, self._mark)
        try:
            return session.watermark(system)
        finally:
            session.close()

    def apply(self, operations: Operations, progress: Progress) -> list[str]:
        """Return when the operations are in Valkey, with the keys that could not be written.

        Fenced when another projector has taken over; Stopped after `stop`.
        """

        def attempt() -> list[str]:
            session = self._session or self._open(Position(self._system, None))
            return session.apply(operations, progress)

        return self._until_done(attempt)

    def stop(self) -> None:
        """Give up waiting for Valkey."""
        self._stopping.set()

    def _open(self, position: Position) -> Session:
        session = Session(self._url, self._mark, epoch=self.epoch).open(position)
        is_new_epoch = session.epoch != self.epoch
        self._session, self.epoch = session, session.epoch
        structlog.get_logger().info("valkey_session", epoch=session.epoch, incomplete=session.incomplete)
        if is_new_epoch:
            self._on_epoch(session.incomplete)
        return session

    def _until_done(self, attempt: Callable[[], Result]) -> Result:
        delay_s = BACKOFF_MIN_S
        while True:
            try:
                result = attempt()
            except (RedisError, OSError, Emptied) as error:
                self._drop(error)
            else:
                self.trouble = ""
                return result
            if self._stopping.wait(delay_s):
                raise Stopped(self.trouble)
            delay_s = min(delay_s * 2, BACKOFF_MAX_S)

    def _drop(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        structlog.get_logger().warning("valkey_unavailable", error=self.trouble)
        if self._session:
            self._session.close()
        self._session = None


def _parts(operations: Operations, size: int) -> Iterator[Operations]:
    """The operations in calls of at most `size`; at least one, so that progress always travels.

    Accounts come last: who reads one between two calls may take everything else of its version to be there.
    """
    remaining = {name: iter(getattr(operations, name).items()) for name in _ORDER}
    room = 0
    while not room:
        part, room = Operations(), size
        for name, items in remaining.items():
            taken = dict(islice(items, room))
            setattr(part, name, taken)
            room -= len(taken)
        yield part
