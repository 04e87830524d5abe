"""What a benchmark may do beyond HTTP to a system on its own machine; `cluster` fills it in, elsewhere it is empty."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.memory import Held
from benchmarks.peer import Peers

Check = Callable[[], Awaitable[dict[str, Any]]]
"""The verdict of `loyalty verify` as JSON: `ok` and `checks`."""


class Rebuilt(NamedTuple):
    """Members whose views were written, and the seconds from the first view to the last one."""

    members: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Host:
    """The machine of the system. `processes` tells names and ids of what runs now."""

    peers: Peers = field(default_factory=lambda: Peers(None, None, None))
    processes: Callable[[], Mapping[str, int]] = dict
    verify: Check | None = None
    freeze: Callable[[], str] | None = None
    """Stops the primary of the first shard without ending it; its name."""
    rebuild: Callable[[str], Awaitable[Rebuilt]] | None = None
    """Rebuilds the views of a region's first shard at full duty."""
    fill: Callable[[str, int], Awaitable[list[str]]] | None = None
    """Gives the first shard of a region so many members; the ids of some, the newest last."""
    held: Callable[[], dict[str, Held]] | None = None
    """The memory of all that runs, by kind."""
    start: Callable[[], Awaitable[float]] | None = None
    """Brings another system up on an empty folder, takes it down again; seconds until it was ready."""

    def of_region(self, region: str) -> dict[str, int]:
        """The processes of one region."""
        return {name: pid for name, pid in self.processes().items() if name.startswith(f"{region}-")}
