"""How often a standby is read through."""

import pytest

from cluster.reading import pause_s


@pytest.mark.parametrize(
    ("takes_s", "pause"), [(0.0, 60.0), (2.0, 60.0), (30.0, 600.0), (170.0, 3400.0), (3600.0, 3600.0)]
)
def test_a_small_server_is_read_every_minute_and_a_large_one_a_twentieth_of_the_time(
    takes_s: float, pause: float
) -> None:
    assert pause_s(takes_s) == pause
