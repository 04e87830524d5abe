"""How much a node has under way, and how much of that one credential may hold.

A credential below `admin` holds at most a quarter of the places, so that nobody alone keeps all others out; a member,
of whom there may be many who mean ill, as many as a phone needs.
"""

from typing import Final

from service.credential import Principal
from shard_router.errors import ProblemError

SHARE: Final = 4
"""A credential's part of the places is one in so many."""
MEMBER_SHARE: Final = 32
MEMBER_MIN: Final = 4  # a phone with a page or two


class Places:
    """Places of one kind. Whoever takes one leaves it, whatever happens between."""

    def __init__(self, places_max: int, what: str, *, member_max: int | None = None) -> None:
        self.taken = 0
        self._places_max = places_max
        self._what = what
        share = max(places_max // SHARE, 1)
        member = max(places_max // MEMBER_SHARE, MEMBER_MIN) if member_max is None else member_max
        self._own_max = {"admin": places_max, "member": min(member, share)}
        self._share = share
        self._taken_by: dict[str, int] = {}

    def take(self, principal: Principal) -> None:
        """Take a place; `overloaded` when there is none, `rate_limited` when this credential has its share."""
        if self.taken >= self._places_max:
            raise ProblemError("overloaded", f"this node has too much {self._what}")
        own = self._taken_by.get(principal.credential, 0)
        if own >= self._own_max.get(principal.role, self._share):
            raise ProblemError("rate_limited", f"this credential has too much {self._what} here")
        self._taken_by[principal.credential] = own + 1
        self.taken += 1

    def leave(self, principal: Principal) -> None:
        """Give a taken place back."""
        self.taken -= 1
        own = self._taken_by[principal.credential] - 1
        if own:
            self._taken_by[principal.credential] = own
        else:
            del self._taken_by[principal.credential]
