"""How full the file systems are on which a data folder lies: Postgres stops at a full one."""

import os
from pathlib import Path
from typing import NamedTuple

FULL_PERCENT = 90  # from here on `loyalty status` tells


class Disk(NamedTuple):
    """One file system, as its users see it: what is kept for root alone counts as used."""

    folder: str
    used_percent: float
    inodes_used_percent: float
    free_bytes: int

    @property
    def shortages(self) -> list[str]:
        """What there is little of, in words."""
        figures = {"disk": self.used_percent, "inodes": self.inodes_used_percent}
        return [
            f"{what} {percent:.0f} % used at {self.folder} ({self.free_bytes / 2**30:.1f} GiB free)"
            for what, percent in figures.items()
            if percent >= FULL_PERCENT
        ]


def disks_of(data: Path) -> list[Disk]:
    """The file systems of a data folder: its own, and those of folders in it that lie elsewhere."""
    folders = [data, *sorted(data.glob("*/")), *sorted(data.glob("servers/*/*/"))]
    by_device: dict[int, Path] = {}
    for folder in folders:
        by_device.setdefault(folder.stat().st_dev, folder)
    return [_disk(folder) for folder in by_device.values()]


def _disk(folder: Path) -> Disk:
    figures = os.statvfs(folder)
    return Disk(
        str(folder),
        _used_percent(figures.f_blocks, figures.f_bfree, figures.f_bavail),
        _used_percent(figures.f_files, figures.f_ffree, figures.f_favail),
        figures.f_bavail * figures.f_frsize,
    )


def _used_percent(all_of_them: int, free: int, available: int) -> float:
    """As `df` has it; nothing on a file system without a limit."""
    used = all_of_them - free
    return 100 * used / (used + available) if used + available > 0 else 0.0
