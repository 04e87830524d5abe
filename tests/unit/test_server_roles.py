"""Which folder is the primary: the folders tell, so a promotion survives a restart."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.plan import ServerPlan
from cluster.role import order_by_role


def server(folder: Path, number: int, *, standby: bool = False, timeline: int = 1) -> ServerPlan:
    plan = ServerPlan(name=f"postgres-{number}", folder=folder / f"postgres-{number}", port=number)
    (plan.folder / "pg_wal").mkdir(parents=True)
    if standby:
        (plan.folder / "standby.signal").touch()
    for older in range(2, timeline + 1):
        (plan.folder / "pg_wal" / f"{older:08X}.history").touch()
    return plan


def names(servers: tuple[ServerPlan, ...]) -> list[str]:
    return [server.name for server in servers]


def test_the_first_becomes_primary_when_there_is_nothing_yet(tmp_path: Path) -> None:
    plans = [ServerPlan(name=str(n), folder=tmp_path / str(n), port=n) for n in (1, 2)]
    assert names(order_by_role(plans)) == ["1", "2"]


def test_the_standby_signal_tells(tmp_path: Path) -> None:
    assert names(order_by_role([server(tmp_path, 1, standby=True), server(tmp_path, 2)])) == [
        "postgres-2",
        "postgres-1",
    ]


def test_after_a_promotion_the_older_timeline_is_set_aside_to_be_cloned(tmp_path: Path) -> None:
    former, promoted = server(tmp_path, 1), server(tmp_path, 2, timeline=2)
    assert names(order_by_role([former, promoted])) == ["postgres-2", "postgres-1"]
    assert not former.folder.exists()
    assert (tmp_path / "postgres-1.outdated").exists()


def test_of_a_pair_that_lost_its_primary_the_standby_is_left_and_acknowledged_all(tmp_path: Path) -> None:
    gone = ServerPlan(name="postgres-1", folder=tmp_path / "postgres-1", port=1)
    third = ServerPlan(name="postgres-3", folder=tmp_path / "postgres-3", port=3)
    left = server(tmp_path, 2, standby=True)
    assert names(order_by_role([gone, left])) == ["postgres-2", "postgres-1"]
    with pytest.raises(ClusterError, match="promote one"):
        order_by_role([gone, left, third])  # the other standby is lost too, and may have acknowledged alone
    third.folder.mkdir()
    with pytest.raises(ClusterError, match="promote one"):
        order_by_role([gone, left])  # there were three once


def test_of_three_that_lost_their_primary_both_standbys_are_left_to_be_asked(tmp_path: Path) -> None:
    gone = ServerPlan(name="postgres-1", folder=tmp_path / "postgres-1", port=1)
    left = [server(tmp_path, number, standby=True, timeline=2) for number in (2, 3)]
    assert names(order_by_role([gone, *left])) == ["postgres-2", "postgres-3", "postgres-1"]
    (left[1].folder / "pg_wal" / "00000002.history").write_text("1 0/3000000 another server took over there")
    with pytest.raises(ClusterError, match="promote one"):
        order_by_role([gone, *left])


def test_of_three_a_standby_of_an_older_primary_cannot_be_compared(tmp_path: Path) -> None:
    gone = ServerPlan(name="postgres-1", folder=tmp_path / "postgres-1", port=1)
    left = [server(tmp_path, number, standby=True, timeline=number) for number in (2, 3)]
    with pytest.raises(ClusterError, match="promote one"):
        order_by_role([gone, *left])


def test_of_three_the_former_primary_is_none_where_a_standby_of_the_last_is_left(tmp_path: Path) -> None:
    """Who took over is lost before the former was set aside: with the third it may have acknowledged since."""
    gone = ServerPlan(name="postgres-1", folder=tmp_path / "postgres-1", port=1)
    former, third = server(tmp_path, 2), server(tmp_path, 3, standby=True, timeline=2)
    with pytest.raises(ClusterError, match="lacks the last primary"):
        order_by_role([gone, former, third])
    assert former.folder.exists()


def test_two_standbys_are_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="promote one"):
        order_by_role([server(tmp_path, 1, standby=True), server(tmp_path, 2, standby=True)])
