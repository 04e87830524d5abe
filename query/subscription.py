"""What is published on one channel of a Valkey, taken as it comes: through redis-py a message costs three times that.

redis-py connects and authenticates; from then on its transport is ours, as in valkey.py.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.exceptions import ConnectionError as GoneError
from redis.exceptions import ResponseError

from query.cache import connect

_PING: Final = hiredis.pack_command(("PING",))
_pack = cast("Callable[[tuple[str, ...]], bytes]", hiredis.pack_command)  # its stub knows one word only


class Subscription(asyncio.Protocol):
    """Hears a channel on one connection, until that ends."""

    def __init__(self, channel: str, *, begun: Callable[[], None], heard: Callable[[bytes], None]) -> None:
        """`begun` is called once Valkey has said yes, `heard` with each message after that."""
        self._channel, self._begun, self._heard = channel, begun, heard
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._reader = hiredis.Reader()
        self._heard_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._asked_at, self._known_to, self._looked_at = 0.0, 0.0, 0.0

    def is_current(self, within_s: float) -> bool:
        """Tell whether all that was published up to so many seconds ago has been heard.

        That is known up to where the last answered ping left: messages come in order. Whoever asks often lets one be
        sent in time; for who asks now and then none is.
        """
        now = self._loop.time()
        looked_at, self._looked_at = self._looked_at, now
        if now - self._known_to > within_s / 2 and now - looked_at <= within_s:
            self._ping(now)
        return now - self._known_to <= within_s and not self.has_ended

    async def run(self, url: str, *, connect_timeout_s: float, silence_max_s: float) -> None:
        """Connect and hear until the connection ends: raises why. After so much silence a ping must be answered."""
        client = connect(url, timeout_s=connect_timeout_s)
        connection: Any = client.connection_pool.make_connection()
        try:
            async with asyncio.timeout(connect_timeout_s):
                await connection.connect()
            transport = cast("asyncio.Transport", connection._writer.transport)  # noqa: SLF001 - it stays the one that closes it
            transport.set_protocol(self)
            self._transport = transport
            transport.write(_pack(("SUBSCRIBE", self._channel)))
            if transport.is_closing():  # of which another protocol may have heard
                raise GoneError("the connection was closed")
            await self._until_silent(silence_max_s)
        finally:
            self._end(GoneError("closed"))
            await connection.disconnect(nowait=True)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is heard any more."""
        return self._ended.done()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            while not self.has_ended and (reply := self._reader.gets()) is not False:
                self._take(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, `run` raises it
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._end(GoneError(str(exc or "the connection was closed")))

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            raise ResponseError(str(reply))
        if reply[0] == b"message":
            self._heard(reply[2])
        elif reply[0] == b"subscribe":
            self._begun()
        elif reply[0] == b"pong":
            self._known_to, self._asked_at = self._asked_at, 0.0

    def _ping(self, now: float) -> None:
        """Ask for a sign of life, unless one is awaited already."""
        if self._transport is not None and not self._asked_at:
            self._asked_at = now
            self._transport.write(_PING)

    async def _until_silent(self, silence_max_s: float) -> None:
        due_at, asked_at = self._loop.time() + silence_max_s, 0.0
        while not (await asyncio.wait((self._ended,), timeout=due_at - self._loop.time()))[0]:
            await asyncio.sleep(0)  # timers come before sockets in a turn: what had come is heard first
            if asked_at > self._heard_at:
                raise TimeoutError("no answer to a ping")
            asked_at, due_at = 0.0, self._heard_at + silence_max_s
            if due_at <= (now := self._loop.time()):
                self._ping(now)
                asked_at, due_at = now, now + silence_max_s
        self._ended.result()

    def _end(self, error: Exception) -> None:
        if not self.has_ended:
            self._ended.set_exception(error)
            self._ended.exception()  # `run` may have ended for another reason: then nobody asks
