"""What the projector has just made visible, for those who wait for it.

One subscription per shard's Valkey wakes waiters in this process. A notification is a hint, never a
proof: a waiter reads the view again, and it is also woken after every new subscription, because
messages of the gap are lost.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

import structlog

from query.height import Heights
from query.near import MEMBERS_MAX, NearCache
from query.subscription import Subscription
from query.views import ANYTHING, VISIBLE_CHANNEL

_PAUSE_MIN_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0
SILENCE_MAX_S: Final = 5.0
"""Then a ping must be answered within as long again, or the connection is dead."""
_CONNECT_TIMEOUT_S: Final = 1.0
CURRENT_S: Final = 0.25
"""What was announced longer ago must have been heard, or nothing is taken from the near cache."""


class Woken(Enum):
    """Why a wait is over."""

    ANNOUNCED = auto()
    MISSED = auto()  # something may have been announced unheard


class Waiter:
    """One waiter's eye on one member. What it told once it does not tell again."""

    def __init__(self) -> None:
        self._version = 0
        self._missed = False
        self._news = asyncio.Event()

    def announce(self, version: int) -> None:
        """Tell the waiter that this version is visible."""
        self._version = max(self._version, version)
        self._news.set()

    def wake(self) -> None:
        """Tell the waiter that it may have missed something."""
        self._missed = True
        self._news.set()

    async def wait(self, version: int, *, timeout_s: float) -> Woken | None:
        """Return once that version was announced or may have been missed; None when time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._version < version and not self._missed:
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            return None
        woken = Woken.ANNOUNCED if self._version >= version else Woken.MISSED
        self._version, self._missed = 0, False
        return woken


class Announcements:
    """The subscription to one Valkey. `run` it as a task; `watch` from requests."""

    def __init__(
        self, url: str, *, waiters_max: int, near_max: int = MEMBERS_MAX, silence_max_s: float = SILENCE_MAX_S
    ) -> None:
        self._url = url
        self._subscription: Subscription | None = None
        self._near_max = near_max
        self.near = self._make_near()
        self._silence_max_s = silence_max_s
        self._waiters_max = waiters_max
        self.waiting = 0
        self._watches: dict[bytes, set[Waiter]] = {}
        self.announced = Heights()
        """What a standby has replayed, if it is to be believed."""
        self.subscribed = asyncio.Event()

    @contextmanager
    def watch(self, member_id: int) -> Generator[Waiter | None]:
        """Waiter a member for the length of the block; None when too many wait already."""
        if self.waiting >= self._waiters_max:
            yield None
            return
        word, watch = str(member_id).encode(), Waiter()
        self.waiting += 1
        self._watches.setdefault(word, set()).add(watch)
        try:
            yield watch
        finally:
            self.waiting -= 1
            self._watches[word].discard(watch)
            if not self._watches[word]:
                del self._watches[word]

    async def run(self) -> None:
        """Keep subscribed, for ever."""
        pause_s = _PAUSE_MIN_S
        while True:
            try:
                await self._subscribe()
            except Exception as error:  # noqa: BLE001 - whatever it is, this must outlive it
                structlog.get_logger().warning("subscription_lost", error=repr(error))
            self.near.listen(listens=False)
            pause_s = _PAUSE_MIN_S if self.subscribed.is_set() else min(pause_s * 2, _PAUSE_MAX_S)
            self.subscribed.clear()
            await asyncio.sleep(pause_s)

    def move(self, url: str) -> None:
        """Go by another Valkey, by the next `run`; who waits goes on waiting, and is woken when that is subscribed."""
        self._url = url
        self.subscribed.clear()
        self.near.listen(listens=False)  # for good: who still asks the other Valkey keeps nothing
        self.near = self._make_near()

    def announce(self, words: bytes) -> None:
        """Remember what a message tells, and wake those who wait for its members; what is no announcement is none."""
        if words == ANYTHING:
            self.near.clear()
        for word in words.split():
            member, _, version = word.partition(b":")
            if not (member.isdigit() and version.isdigit()):
                continue
            self.near.forget(member.decode())
            self.announced.note(int(member), int(version))
            for watch in self._watches.get(member, ()):
                watch.announce(int(version))

    async def _subscribe(self) -> None:
        self._subscription = Subscription(VISIBLE_CHANNEL, begun=self._begun, heard=self.announce)
        await self._subscription.run(self._url, connect_timeout_s=_CONNECT_TIMEOUT_S, silence_max_s=self._silence_max_s)

    def _make_near(self) -> NearCache:
        return NearCache(is_current=self._is_current, members_max=self._near_max)

    def _is_current(self) -> bool:
        return self._subscription is not None and self._subscription.is_current(CURRENT_S)

    def _begun(self) -> None:
        self.near.listen()
        self.subscribed.set()
        self._wake_all()

    def _wake_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()
