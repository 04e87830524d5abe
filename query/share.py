"""What the front door gives each region of its traffic, and when an event stream is to follow it elsewhere.

A request goes wherever the door sends it; a stream stays where it began. So the node that carries one ends it, once,
when its region is evacuated, or when its member's home is again where the door sends them.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

LOOKED_FOR_S: Final = 0.5
"""How long a look at the document counts, for all streams of a node."""


class _Shares(BaseModel):
    shares: dict[str, int] = {}


def read_shares(door: Path | None) -> dict[str, int] | None:
    """The shares other than all that the front door gives regions; None where none is known."""
    try:
        return _Shares.model_validate_json(door.read_bytes()).shares if door else None
    except (OSError, ValidationError):
        return None


class Shares:
    """The shares of a document that changes. What cannot be read leaves what was known."""

    def __init__(self, door: Path | None) -> None:
        self._door = door
        self._known = read_shares(door) or {}
        self._looked_at = time.monotonic()

    def is_evacuated(self, region: str) -> bool:
        """Whether a region takes nothing of the traffic while another can."""
        if time.monotonic() - self._looked_at > LOOKED_FOR_S:
            self._looked_at = time.monotonic()
            self._known = self._known if (now := read_shares(self._door)) is None else now
        return self._known.get(region) == 0


@dataclass(slots=True)
class Move:
    """Whether a stream is to go elsewhere now: told by a change, so that one that comes back here may stay.

    `home` is the region of its member, `carrier` the one whose node the client speaks to.
    """

    shares: Shares
    carrier: str
    home: str
    _was_carrier: bool = field(init=False)
    _was_home: bool = field(init=False)

    def __post_init__(self) -> None:
        self._was_carrier, self._was_home = self._evacuated()

    def is_due(self) -> bool:
        """Whether the carrier has been evacuated since the last look, or the home elsewhere is no longer."""
        was_carrier, was_home = self._was_carrier, self._was_home
        self._was_carrier, self._was_home = self._evacuated()
        is_back = was_home and not self._was_home and self.home != self.carrier
        return is_back or (self._was_carrier and not was_carrier)

    def _evacuated(self) -> tuple[bool, bool]:
        return self.shares.is_evacuated(self.carrier), self.shares.is_evacuated(self.home)
