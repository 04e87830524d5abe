"""A tiny database of countries for one machine.

Clients at 127.0.1.x count as German, at .2.x as American, at .3.x as Japanese. A real one (MaxMind's format) is
named with --geoip. Addresses that it does not know have no country.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

FILE: Final = "loopback.mmdb"
NETWORKS: Final[Mapping[str, str]] = {"127.0.1.0/24": "DE", "127.0.2.0/24": "US", "127.0.3.0/24": "JP"}


def write_loopback_countries(folder: Path) -> Path | None:
    """The database in this folder, written when it is missing; None where its writer is not installed."""
    path = folder / FILE
    if path.exists():
        return path
    try:
        from mmdb_writer import MMDBWriter  # noqa: PLC0415 - of the extra `edge`, and only a first start needs it
        from netaddr import IPSet  # noqa: PLC0415
    except ImportError:
        return None
    writer = MMDBWriter(ip_version=4, database_type="GeoLite2-City")
    for network, country in NETWORKS.items():
        writer.insert_network(IPSet([network]), {"country": {"iso_code": country}})
    writer.to_db_file(str(path))
    return path
