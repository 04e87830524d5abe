"""How much a node has under way, and how much of that one credential may hold.

A credential below `admin` holds at most a quarter of the places, so that nobody alone keeps all others out.
"""

from collections import defaultdict
from typing import Final

from service.credential import Principal
from shard_router.errors import ProblemError

SHARE: Final = 4
"""One credential's part of the places is one in so many."""


class Places:
    """Places of one kind. Whoever takes one leaves it, whatever happens between."""

    def __init__(self, places_max: int, what: str, *, member_max: int | None = None) -> None:
        self.taken = 0
        self._places_max = places_max
        self._own_max = max(places_max // SHARE, 1)
        self._member_max = self._own_max if member_max is None else member_max
        self._what = what
        self._taken_by = defaultdict[str, int](int)

    def take(self, principal: Principal) -> None:
        """Take a place; `overloaded` when there is none, `rate_limited` when this credential has its share."""
        if self.taken >= self._places_max:
            raise ProblemError("overloaded", f"this node has too much {self._what}")
        own = self._taken_by[principal.credential]
        own_max = self._member_max if principal.role == "member" else self._own_max
        if own >= own_max and principal.role != "admin":
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
