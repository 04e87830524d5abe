"""What befell the servers of each shard, for whoever comes in the morning: the newest few, kept over starts.

They lie in run.json, which the supervisor alone writes. What happens again and again counts up in one event, so that
it does not drive out the failover before it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from rules.codec import instant_text

KEPT_MAX: Final = 10
"""Events of a shard. Three failovers in ten minutes end the attempts, so these tell of some hours at the worst."""

Kind = Literal["failover", "switchover", "restart", "trouble"]


@dataclass(slots=True)
class Event:
    """One event of a server: a failover or a switchover from it, its restart in its place, or trouble that stays.

    `primary` is who took its place, None as long as nobody did.
    """

    at: str
    """RFC 3339; of one that happened several times, the last time."""
    kind: Kind
    server: str
    why: str
    primary: str | None = None
    took_s: float | None = None
    """Until then."""
    times: int = 1

    @property
    def words(self) -> str:
        """One line for people."""
        if self.kind in {"restart", "trouble"}:
            again = f" ({self.times} times)" if self.times > 1 else ""
            return f"{self.kind} of {self.server}{again}: {self.why}"
        after = "" if self.took_s is None else f" after {self.took_s:.1f} s"
        return f"{self.kind} from {self.server} to {self.primary or 'nobody yet'}{after}: {self.why}"

    def repeats(self, other: "Event") -> bool:
        """Whether it is the same once more. A change of roles that came to an end never is."""
        mine, theirs = (self.kind, self.server, self.why), (other.kind, other.server, other.why)
        return mine == theirs and self.primary is None and other.primary is None


def note_event(events: list[Event], event: Event) -> Event:
    """Add what happened to the events of its shard; the event that stands for it there."""
    if events and event.repeats(events[-1]):
        events[-1].at, events[-1].times = event.at, events[-1].times + 1
    else:
        events.append(event)
        del events[:-KEPT_MAX]
    return events[-1]


def instant() -> str:
    """Now, as an event has it."""
    return instant_text(datetime.now(UTC).replace(microsecond=0))
