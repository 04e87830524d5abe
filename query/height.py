"""The highest version of each member that a node has shown or heard of, as many as there is room for.

A picture that shows less is an older one. What is heard of again stays; the half heard of longest ago is forgotten at
once when there is no room.
"""

from typing import Final

from rules.version import VERSION_MAX

MEMBERS_MAX: Final = 200_000  # about 25 MB when full


class Heights:
    """Versions by member. One is never taken back, but by `forget`."""

    def __init__(self, members_max: int = MEMBERS_MAX) -> None:
        self._half = max(members_max // 2, 1)
        self._recent: dict[int, int] = {}
        self._before: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._before)

    def of(self, member_id: int) -> int:
        """The highest version noted; 0 for none."""
        return self._recent.get(member_id) or self._before.get(member_id, 0)

    def note(self, member_id: int, version: int) -> None:
        """Remember a version if it is the highest; that of a page that nothing can change is none."""
        known = self._recent.get(member_id, 0)
        if version <= known or version == VERSION_MAX:
            return
        self._recent[member_id] = max(version, self._before.get(member_id, 0))
        if len(self._recent) >= self._half:
            self._before, self._recent = self._recent, {}

    def forget(self, member_id: int) -> None:
        """Remember nothing of a member."""
        self._recent.pop(member_id, None)
        self._before.pop(member_id, None)
