"""Which processes of a Postgres server count as backends."""

import pytest

from benchmarks.cpu import is_session_title


@pytest.mark.parametrize(
    ("title", "is_session"),
    [
        ("postgres: loyalty_node loyalty 127.0.0.1(33698) idle", True),
        ("postgres: eu-1-postgres-1: loyalty_node loyalty 127.0.0.1(33698) SELECT waiting for 0/64C7", True),
        ("postgres: walsender loyalty_standby 127.0.0.1(33502) streaming 0/64C7FF0", False),
        ("postgres: eu-1-postgres-1: walsender loyalty_projector loyalty 127.0.0.1(33662) START_REPLICATION", False),
        ("postgres: eu-1-postgres-2: startup recovering 000000010000000000000003", False),
        ("postgres: eu-1-postgres-1: checkpointer ", False),
        ("/usr/bin/postgres -D data", False),
        ("", False),
    ],
)
def test_a_session_is_told_by_its_title_with_or_without_the_name_of_the_cluster(
    title: str, *, is_session: bool
) -> None:
    assert is_session_title(title) is is_session
