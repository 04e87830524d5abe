"""One connection to a Valkey, on which questions follow one another without waiting for answers.

redis-py connects and authenticates; from then on its transport is ours, because a question through
it costs more than all else a query does. Answers come in the order of the questions. Whatever goes
wrong ends the connection and everything asked on it, so no answer is ever taken for another's.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as GoneError
from redis.exceptions import ResponseError

LATE_S: Final = 0.02
"""A timer that fires so much late tells of a busy event loop."""

Words = tuple[str | int | bytes, ...]
_pack = cast("Callable[[Words], bytes]", hiredis.pack_command)  # its stub knows one word only


class _Asked:
    """A question and where its answer goes: one reply, or the list of so many (`missing`; 0: a single one)."""

    __slots__ = ("answer", "asked_at", "missing", "replies")

    def __init__(self, answer: "asyncio.Future[Any]", asked_at: float, missing: int) -> None:
        self.answer = answer
        self.asked_at = asked_at
        self.missing = missing
        self.replies: list[Any] = []

    def take(self, reply: Any) -> bool:
        """Take the next reply; tells whether it was the last."""
        if not self.missing:
            self._answer(reply)
            return True
        self.replies.append(reply)
        if len(self.replies) < self.missing:
            return False
        self._answer([ResponseError(str(one)) if isinstance(one, hiredis.ReplyError) else one for one in self.replies])
        return True

    def _answer(self, reply: Any) -> None:
        if self.answer.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            self.answer.set_exception(ResponseError(str(reply)))
        else:
            self.answer.set_result(reply)


class ValkeyConnection(asyncio.Protocol):
    """Connects at the first question, and again at the first after a failure."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._client = Redis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            retry=None,
            protocol=2,
            driver_info=None,  # as in cache.py
        )
        self._timeout_s = timeout_s
        self._writer: Any = None
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._asked: deque[_Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader()

    def ask_one(self, *words: str | int | bytes) -> "asyncio.Future[Any]":
        """Send a command; the answer is its reply, within the timeout.

        RedisError or OSError when it is refused or the connection fails, TimeoutError when time is up.
        """
        return self._ask(_pack(words), missing=0)

    def ask(self, commands: Sequence[Words]) -> "asyncio.Future[list[Any]]":
        """Send commands; the answer is the list of their replies, a ResponseError for one that is refused.

        Raises as above when the connection fails.
        """
        return self._ask(b"".join(map(_pack, commands)), missing=len(commands))

    async def close(self) -> None:
        """Hang up."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._fail(GoneError("closed"))

    def _ask(self, packed: bytes, *, missing: int) -> "asyncio.Future[Any]":
        loop = asyncio.get_running_loop()
        asked = _Asked(loop.create_future(), loop.time(), missing)
        self._asked.append(asked)
        if self._transport is not None:
            self._transport.write(packed)
        else:
            self._unsent.append(packed)
            self._connecting = self._connecting or loop.create_task(self._connect())
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._look_at_the_clock, loop.time() + self._timeout_s)
        return asked.answer

    def data_received(self, data: bytes) -> None:
        """Hand replies to whoever asked first. One that nobody asked for would be taken for the next question's."""
        self._reader.feed(data)
        try:
            while self._asked and (reply := self._reader.gets()) is not False:
                if self._asked[0].take(reply):
                    self._asked.popleft()
        except hiredis.HiredisError as error:
            self._fail(GoneError(str(error)))
        if not self._asked and self._reader.has_data():
            self._fail(GoneError("an answer to no question"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who still waits."""
        self._fail(GoneError(str(exc or "the connection was closed")))

    async def _connect(self) -> None:
        connection: Any = self._client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the askers hear it
            self._fail(error)
        else:
            self._adopt(connection)
        finally:
            self._connecting = None
            await connection.disconnect(nowait=True)  # what a failure or a cancellation left open

    def _adopt(self, connection: Any) -> None:
        """Take the transport of a connection that is ready; what was asked meanwhile leaves at once."""
        self._writer = connection._writer  # noqa: SLF001 - kept, because it closes its transport when nobody refers to it
        connection._writer = connection._reader = None  # noqa: SLF001 - so that it does not, either
        self._reader = hiredis.Reader()
        self._transport = cast("asyncio.Transport", self._writer.transport)
        self._transport.set_protocol(self)
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()
        if self._transport.is_closing():  # of which another protocol may have heard
            self._fail(GoneError("the connection was closed"))

    def _look_at_the_clock(self, due_at: float) -> None:
        """Fail when the oldest question is too old.

        A timer that fires late shows that this process was busy, not Valkey: then the answer may lie unread. But only
        up to twice the timeout: a process that is always busy must not wait for ever.
        """
        self._timer = None
        if not self._asked:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        left_s = self._asked[0].asked_at + self._timeout_s - now
        busy = now - due_at >= LATE_S and left_s > -self._timeout_s
        # Connecting has a time of its own, or who asks next would get what is left of it.
        if left_s <= 0 and not busy and self._connecting is None:
            self._fail(TimeoutError("no answer in time"))
            return
        left_s = max(left_s, LATE_S)
        self._timer = loop.call_later(left_s, self._look_at_the_clock, now + left_s)

    def _fail(self, error: Exception) -> None:
        if self._transport is not None:
            self._transport.set_protocol(asyncio.Protocol())  # its end must not be taken for that of the next one
            self._transport.abort()
        self._transport = self._writer = None
        self._unsent.clear()
        asked, self._asked = self._asked, deque()
        for one in asked:
            if not one.answer.done():
                one.answer.set_exception(error)
