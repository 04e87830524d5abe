"""How many refusals of one credential are stored: whoever asks for nothing but a "no" fills no table.

Beyond the bound a "no" is answered as ever but not kept under its key, so the same key is decided anew. Each node
counts for itself, in memory: the bound for a deployment is that of a node times the nodes.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 3_600.0
OF_MEMBER_MAX: Final = 100
"""A member's own token, per hour: more than a person asks for, and 2 MB in the month that answers are kept."""
OF_KEY_MAX: Final = 10_000
"""An API key, per hour: what a till that was offline for a month, or a whole shop's service, is refused at once."""
CREDENTIALS_MAX: Final = 10_000


class StoredRefusals:
    """Counts by credential; those not heard of for longest are forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def may_store(self, credential: str) -> bool:
        """Whether one more refusal of a credential is stored."""
        since, count = self._counts.get(credential, (0.0, 0))
        stored_max = OF_MEMBER_MAX if credential.startswith("member:") else OF_KEY_MAX
        return count < stored_max or self._clock() - since >= WINDOW_S

    def note(self, credential: str) -> None:
        """Count one that was stored."""
        now = self._clock()
        since, count = self._counts.pop(credential, (now, 0))
        self._counts[credential] = (now, 1) if now - since >= WINDOW_S else (since, count + 1)
        if len(self._counts) > CREDENTIALS_MAX:
            self._counts.popitem(last=False)
