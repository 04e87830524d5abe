"""Where regions and clients are, roughly: enough to put the regions in the order of their distance from a country.

A country counts as the middle of its part of the world. Regions of well-known names have a place of their own here;
others get one in the door's settings. Distances are great circles.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

EARTH_RADIUS_KM: Final = 6371.0
LATITUDE_MAX: Final = 90
LONGITUDE_MAX: Final = 180


class Place(NamedTuple):
    """Degrees north and east."""

    latitude: float
    longitude: float


REGIONS: Final[Mapping[str, Place]] = {
    "eu": Place(50.1, 8.7),
    "uk": Place(51.5, -0.1),
    "us": Place(39.0, -77.5),
    "usw": Place(45.6, -121.2),
    "ca": Place(45.5, -73.6),
    "sa": Place(-23.5, -46.6),
    "ap": Place(35.7, 139.7),
    "sg": Place(1.3, 103.8),
    "in": Place(19.1, 72.9),
    "au": Place(-33.9, 151.2),
    "me": Place(25.2, 55.3),
    "af": Place(-26.2, 28.0),
}
"""Where data centres of regions so named usually stand."""

_PARTS: Final[tuple[tuple[Place, str], ...]] = (
    (
        Place(50.0, 12.0),
        (
            "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD "
            "ME MK MT NL NO PL PT RO RS RU SE SI SJ SK SM TR UA VA XK"
        ),
    ),
    (
        Place(28.0, 45.0),
        "AE AM AZ BH GE IL IQ IR JO KW LB OM PS QA SA SY YE AF KZ KG TJ TM UZ",
    ),
    (
        Place(20.0, 80.0),
        "BD BT IN LK MV NP PK",
    ),
    (
        Place(25.0, 115.0),
        "BN CN HK ID JP KH KP KR LA MM MN MO MY PH SG TH TL TW VN",
    ),
    (
        Place(30.0, 5.0),
        "DZ EG EH LY MA MR SD TN CV GM GN GW ML NE SN",
    ),
    (
        Place(-5.0, 25.0),
        (
            "AO BF BI BJ BW CD CF CG CI CM DJ ER ET GA GH GQ KE KM LR LS MG MU MW MZ NA NG RE RW SC SH SL SO SS ST SZ "
            "TD TG TZ UG YT ZA ZM ZW"
        ),
    ),
    (
        Place(39.0, -95.0),
        (
            "CA GL MX PM US BM BS CU DM DO GD GP GT HN HT JM KN KY LC MQ MS NI PA PR SV TC TT VC VG VI AG AI AW BB BL "
            "BQ BZ CR CW MF SX"
        ),
    ),
    (
        Place(-20.0, -58.0),
        "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    ),
    (
        Place(-28.0, 140.0),
        "AS AU CC CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
    ),
)
COUNTRIES: Final[Mapping[str, Place]] = {code: place for place, codes in _PARTS for code in codes.split()}
"""ISO 3166-1 alpha-2 codes, and the middle of the part of the world where each lies."""


@dataclass(frozen=True, slots=True)
class Geography:
    """Where the regions of a system are, in the order of its topology; `places` come from settings or REGIONS."""

    places: Mapping[str, Place]

    def from_region(self, region: str) -> tuple[str, ...]:
        """The regions, nearest first, seen from one of them: itself comes first."""
        return self.from_place(self.places[region])

    def nearest_to(self, country: str) -> str | None:
        """The region nearest to a country; None for a code that says nothing (XX, T1, unknown)."""
        place = COUNTRIES.get(country)
        return self.from_place(place)[0] if place else None

    def countries_of(self, region: str) -> tuple[str, ...]:
        """The countries to which a region is the nearest."""
        return tuple(country for country in COUNTRIES if self.nearest_to(country) == region)

    def from_place(self, place: Place) -> tuple[str, ...]:
        """The regions, nearest first, seen from anywhere; of two equally far the first of the topology."""
        return tuple(sorted(self.places, key=lambda region: distance_km(place, self.places[region])))


def is_on_earth(place: Place) -> bool:
    """Whether both are degrees there are; what is no number is not."""
    return abs(place.latitude) <= LATITUDE_MAX and abs(place.longitude) <= LONGITUDE_MAX


def distance_km(one: Place, other: Place) -> float:
    """The great-circle distance (haversine formula)."""
    latitudes, longitudes = (one.latitude, other.latitude), (one.longitude, other.longitude)
    north, south = map(math.radians, latitudes)
    part = math.sin((south - north) / 2) ** 2
    part += math.cos(north) * math.cos(south) * math.sin(math.radians(longitudes[1] - longitudes[0]) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(part))
