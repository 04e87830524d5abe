"""A near cache: views of one Valkey that this node has read lately, so that Valkey need not be asked again.

The projector announces a change in the call that makes it (cdc/apply.lua). So what is kept is what Valkey shows until
something else is announced; whether all that was announced has been heard is for `is_current` to say. What is announced
between a question and its answer may be in the answer or not: such an answer is not kept.

What is kept of a member was read beside one account. Views of two versions would make a picture that never was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from query.views import ACCOUNT, PROFILE, DamagedViewError, split, version_of

MEMBERS_MAX: Final = 16_000
"""Some 15 MB of accounts and profiles."""
LIFE_S: Final = 20.0
"""Nothing is kept longer, whatever has changed Valkey without an announcement."""


class View(NamedTuple):
    """A view that can be parsed."""

    version: int
    body: bytes


class Kept(NamedTuple):
    """The views of a member: the account, and the profile if it was read beside it."""

    account: View
    profile: View | None


class NearCache:
    """What one Valkey shows of the members asked for lately, as many as there is room for."""

    def __init__(
        self, *, is_current: Callable[[], bool], members_max: int = MEMBERS_MAX, life_s: float = LIFE_S
    ) -> None:
        """`is_current` tells whether everything that was announced, but for the last moment, has been heard."""
        self._is_current = is_current
        self._members_max = members_max
        self._half, self._half_life_s = max(members_max // 2, 1), life_s / 2
        self._recent: dict[str, Kept] = {}
        self._before: dict[str, Kept] = {}
        self._ends_at = time.monotonic() + self._half_life_s
        self._heard, self._listens = 0, False

    def __len__(self) -> int:
        return len(self._recent.keys() | self._before.keys())

    def listen(self, *, listens: bool = True) -> None:
        """Forget everything; from now on announcements are told here, or are told no more."""
        self.clear()
        self._listens = listens

    def clear(self) -> None:
        """Forget everything: anything may have changed."""
        self._recent, self._before = {}, {}
        self._heard += 1

    def forget(self, member: str) -> None:
        """Forget a member, of whom a change was announced."""
        self._recent.pop(member, None)
        self._before.pop(member, None)
        self._heard += 1

    @property
    def ticket(self) -> int | None:
        """Taken when Valkey is asked, for `keep`; None where nothing can be kept."""
        return self._heard if self._listens and self._members_max else None

    def keep(self, ticket: int, keys: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Keep what Valkey showed at one instant, unless something was announced since the ticket was taken."""
        if ticket != self._heard:
            return
        shown = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        for key in shown:
            if key.startswith(ACCOUNT):
                with suppress(DamagedViewError):
                    self._put(key[len(ACCOUNT) :], shown)

    def get(self, member_id: int) -> Kept | None:
        """What is kept of a member, if it is certain."""
        self._look_at_the_clock()
        member = str(member_id)
        kept = self._recent.get(member) or self._before.get(member)
        return kept if kept is not None and self._is_current() else None

    def _put(self, member: str, shown: Mapping[str, bytes]) -> None:
        account, profile, known = ACCOUNT + member, PROFILE + member, self._recent.get(member)
        is_known = known is not None and known.account.version == version_of(account, shown[account])
        if known and is_known and (known.profile is not None or profile not in shown):
            return
        self._recent[member] = Kept(_view(account, shown), _view(profile, shown) if profile in shown else None)
        if len(self._recent) >= self._half:
            self._begin_half()

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        if now < self._ends_at:
            return
        if now >= self._ends_at + self._half_life_s:
            self._recent = {}
        self._ends_at = now + self._half_life_s
        self._begin_half()

    def _begin_half(self) -> None:
        self._before, self._recent = self._recent, {}


def _view(key: str, shown: Mapping[str, bytes]) -> View:
    return View(*split(key, shown[key]))
