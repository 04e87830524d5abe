"""Views that query nodes could not parse: taken out, and written again from Postgres.

Query nodes only name them, for they may write nothing; the projector looks for itself. What is not heard is said again
by the next query, and what cannot be mended now is left to a rebuild.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cdc.rebuild import Rebuild
from cdc.rows import NotReady
from cdc.sink import CALL_TIMEOUT_S, CONNECT_TIMEOUT_S, Emptied, Fenced, Session
from query.views import DAMAGED_CHANNEL
from shard_router.errors import ProblemError

RETRY_S: Final = 1.0
SILENCE_MAX_S: Final = 5.0
KEYS_AT_ONCE: Final = 100
_VIEW_KEY: Final = re.compile(r"[aem]:\d{1,19}|p:\d{1,19}-\d{1,19}|i:(?:card|phone|email):.+", re.DOTALL)


class Mending:
    """Listens for ever."""

    def __init__(self, url: str, rebuild: Rebuild, open_session: Callable[[], Session]) -> None:
        self._url = url
        self._rebuild = rebuild
        self._open_session = open_session

    async def run(self) -> None:
        """Mend what is named; a Valkey that is away is the stream's affair, here it is only tried again."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                structlog.get_logger().info("mending_interrupted", error=type(error).__name__)
            await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        client = Redis.from_url(
            self._url,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            driver_info=None,  # as in query/cache.py
        )
        channel: Any = client.pubsub()
        try:
            await channel.subscribe(DAMAGED_CHANNEL)
            pinged = False
            while True:
                messages = await _heard(channel)
                if not messages and pinged:
                    raise TimeoutError("no answer to a ping")
                if not messages:
                    await channel.ping()
                pinged = not messages
                if keys := _view_keys(messages):
                    await self.mend(keys)
        finally:
            await channel.aclose()
            await client.aclose()

    async def mend(self, keys: list[str]) -> None:
        """Mend these, or ask for a rebuild."""
        session = self._open_session()
        try:
            taken = await self._rebuild.mend(session, keys)
        except (ProblemError, asyncpg.PostgresError, Fenced, Emptied, NotReady) as error:
            structlog.get_logger().warning("views_not_mended", error=f"{type(error).__name__}: {error}")
            self._rebuild.request("damaged views could not be written again")
        else:
            if taken:
                structlog.get_logger().warning("views_mended", kinds=sorted(key[0] for key in taken))
        finally:
            session.close()


async def _heard(channel: Any) -> list[Any]:
    """What is said next, and whatever has been said by then; nothing in a while of silence."""
    messages: list[Any] = []
    message = await channel.get_message(timeout=SILENCE_MAX_S)
    while message is not None and len(messages) < KEYS_AT_ONCE:
        messages.append(message)
        message = await channel.get_message(timeout=0)
    return messages


def _view_keys(messages: Iterable[Any]) -> list[str]:
    texts = {one["data"].decode("utf-8", "replace") for one in messages if one["type"] == "message"}
    return [text for text in texts if _VIEW_KEY.fullmatch(text)]
