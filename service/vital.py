"""What every process of ours tells of itself: `process_*`, `loyalty_build_info`, and the room on its disk."""

import os
import platform
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_PROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"


def register_vital(registry: CollectorRegistry, folder: Path) -> None:
    """Show all of them in this registry; `folder` is that of the documents."""
    build = Info("loyalty_build", "What runs here.", registry=registry)
    revision = os.environ.get("LOYALTY_BUILD_REVISION", "unknown")
    build.info({"version": running_version(), "revision": revision, "python": platform.python_version()})
    ProcessCollector(registry=registry)
    registry.register(_Disk(folder))


def running_version() -> str:
    """The version of the code that runs: what its image says, else its tree, else the installed package."""
    if told := os.environ.get("LOYALTY_BUILD_VERSION"):
        return told  # an image has neither of the others
    if _PROJECT.is_file():
        return str(tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"])
    try:
        return metadata.version("loyalty")
    except metadata.PackageNotFoundError:
        return "unknown"


class _Disk(Collector):
    """The file system of a folder. On one machine that is where Postgres writes too; elsewhere ask its own host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Look now; nothing while the folder is away."""
        try:
            figures = os.statvfs(self._folder)
        except OSError:
            return
        yield GaugeMetricFamily(
            "loyalty_disk_free_bytes", "Free for this process.", value=figures.f_bavail * figures.f_frsize
        )
        yield GaugeMetricFamily("loyalty_disk_size_bytes", "Size of it.", value=figures.f_blocks * figures.f_frsize)
