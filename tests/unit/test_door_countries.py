"""What the door is told to know countries by, looked at before anything is started."""

from pathlib import Path

import pytest

from cluster.country import write_loopback_countries
from cluster.door import check_door
from cluster.errors import ClusterError
from cluster.plan import DoorPlan


def door(geoip: Path | None) -> DoorPlan:
    return DoorPlan(program=Path("envoy"), port=8400, admin_port=8401, tls=False, geoip=geoip, places={})


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"DE,US,JP", "no MaxMind database")])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "countries.mmdb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClusterError, match=f"{file} cannot be used: .*{why}"):
        check_door(door(file))


def test_a_database_and_none_are_taken(tmp_path: Path) -> None:
    pytest.importorskip("mmdb_writer")
    check_door(door(write_loopback_countries(tmp_path)))
    check_door(door(None))
    check_door(None)
