"""The program in force, in process memory: stores, rewards and tiers are answered without a call.

The catalogue asks a server of its own region each second for a version other than the one it holds.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final

import structlog

from query.page import decode_page, encode_page, not_of_this_list
from query.reader import ShardReader
from rules.program import Program, ProgramError, Reward, Store, parse_program
from shard_router.errors import ProblemError

REFRESH_INTERVAL_S: Final = 1.0
_PAUSE_MAX_S: Final = 30.0
_VERSIONS_MAX: Final = 16  # evaluations look at a few days' programs; a large one takes megabytes
_EARTH_RADIUS_M: Final = 6_371_008.8  # mean radius, IUGG 1980
_FAR: Final = math.inf  # stores without a place come last

Place = tuple[float, float]
NEAR: Final = (
    r"^-?([0-8]?[0-9](\.[0-9]{1,15})?|90(\.0{1,15})?),"
    r"-?((1[0-7][0-9]|[0-9]?[0-9])(\.[0-9]{1,15})?|180(\.0{1,15})?)$"
)
"""A latitude and a longitude in degrees, as texts."""
"""Latitude and longitude in degrees."""


class Catalogue:
    """Holds the program; `shards` gives the readers to ask, in order."""

    def __init__(self, shards: Callable[[], list[ShardReader]]) -> None:
        self._shards = shards
        self._program: Program | None = None
        self._versions: dict[int, Program] = {}

    @property
    def program(self) -> Program:
        """The program in force; `shard_unavailable` as long as none could be read."""
        if self._program is None:
            raise ProblemError("shard_unavailable", "the program has not been read yet")
        return self._program

    @property
    def known_version(self) -> int | None:
        """The version of the program in force, None as long as none could be read."""
        return self._program.version if self._program else None

    async def version(self, number: int, shard: ShardReader) -> Program:
        """Look a version up, reading it from a shard when it is new here: versions never change."""
        if number not in self._versions:
            program = await _read_version(number, shard)
            if len(self._versions) >= _VERSIONS_MAX:
                self._versions.pop(next(iter(self._versions)))
            self._versions[number] = program
        return self._versions[number]

    async def run(self) -> None:
        """Keep the program up to date, for ever: what goes wrong is tried again, ever more seldom."""
        pause_s = REFRESH_INTERVAL_S
        while True:
            pause_s = REFRESH_INTERVAL_S if await self.refresh() else min(2 * pause_s, _PAUSE_MAX_S)
            await asyncio.sleep(pause_s)

    async def refresh(self) -> bool:
        """Look for a new version once; tells whether it could. Whatever goes wrong is logged, the current one stays."""
        known = self._program.version if self._program else 0
        try:
            rows = await self._rows(known)
            if rows:
                self._adopt(rows[0]["source"], rows[0]["version"])
        except Exception:  # noqa: BLE001 - no single fault may leave this node with an old program for good
            structlog.get_logger().exception("program_not_refreshed", known=known)
            return False
        return True

    def _adopt(self, source: str, version: int) -> None:
        try:
            self._program = parse_program(source, version)
        except ProgramError as error:
            structlog.get_logger().error("program_unusable", version=version, error=str(error))
            return
        structlog.get_logger().info("program_adopted", version=version)

    async def _rows(self, known: int) -> list[Any]:
        for shard in self._shards():
            for server in await shard.servers():
                try:
                    return await server.fetch("find_program", known)
                except ProblemError:
                    continue
        return []


async def _read_version(number: int, shard: ShardReader) -> Program:
    """The version, knowing those before it: what time alone changed is decided by the version of its instant."""
    for server in await shard.servers():
        try:
            rows = await server.fetch("find_program_versions", number, _VERSIONS_MAX)
        except ProblemError:
            continue
        if rows and rows[0]["version"] == number:
            history = [(row["effective_at"], parse_program(row["source"], row["version"])) for row in rows]
            return history[0][1].with_history(history)
    raise ProblemError("shard_unavailable", f"no server can show program version {number}")


def describe_rewards(program: Program) -> list[dict[str, Any]]:
    """Write the items of /v1/rewards, cheapest first."""
    return [
        reward.model_dump(exclude={"code"}, exclude_none=True) | {"reward": reward.code}
        for reward in _by_price(program)
    ]


def describe_rewards_for(program: Program, available: int) -> list[dict[str, Any]]:
    """Write the items of a member's rewards, cheapest first."""
    return [
        {
            "reward": reward.code,
            "name": reward.name,
            "points": reward.points,
            "affordable": available >= reward.points,
            "points_missing": max(reward.points - available, 0),
        }
        for reward in _by_price(program)
    ]


def describe_tiers(program: Program) -> list[dict[str, Any]]:
    """Write the items of /v1/tiers, lowest first."""
    return [
        {
            "code": tier.code,
            "name": tier.name or tier.code,
            "threshold": tier.threshold,
            "multiplier": float(tier.multiplier),
        }
        for tier in program.tiers
    ]


def describe_stores(
    program: Program, *, region: str | None, near: Place | None, size: int, page_token: str | None
) -> dict[str, Any]:
    """Write a page of stores: by distance when `near` is given, else by code. `malformed` for another list's token."""
    listing = f"stores {region} {near}"
    after = _after(listing, page_token)
    rows = sorted(
        (_distance_m(store, near), store.code, store)
        for store in program.stores.values()
        if region in (None, store.region)
    )
    rows = [row for row in rows if after is None or row[:2] > after]
    page: dict[str, Any] = {"items": [_describe_store(store, distance) for distance, _, store in rows[:size]]}
    if len(rows) > size:
        distance, code, _ = rows[size - 1]
        page["next_page_token"] = encode_page(listing, [None if distance == _FAR else distance, code])
    return page


def _after(listing: str, page_token: str | None) -> tuple[float, str] | None:
    if page_token is None:
        return None
    match decode_page(listing, page_token):
        case [None, str(code)]:
            return _FAR, code
        case [int() | float() as distance, str(code)]:
            return float(distance), code
        case _:
            raise not_of_this_list()


def _by_price(program: Program) -> list[Reward]:
    return sorted(program.rewards.values(), key=lambda reward: (reward.points, reward.code))


def _distance_m(store: Store, near: Place | None) -> float:
    if near is None or store.lat is None or store.lon is None:
        return _FAR
    return haversine_m(near, (store.lat, store.lon))


def haversine_m(one: Place, other: Place) -> float:
    """Great-circle distance in metres on a sphere (R. W. Sinnott, "Virtues of the Haversine", 1984)."""
    (lat_1, lon_1), (lat_2, lon_2) = (tuple(map(math.radians, place)) for place in (one, other))
    half_chord = (
        math.sin((lat_2 - lat_1) / 2) ** 2 + math.cos(lat_1) * math.cos(lat_2) * math.sin((lon_2 - lon_1) / 2) ** 2
    )
    return 2 * _EARTH_RADIUS_M * math.asin(math.sqrt(min(half_chord, 1.0)))


def _describe_store(store: Store, distance_m: float) -> dict[str, Any]:
    item: dict[str, Any] = {"store": store.code, "name": store.name, "region": store.region}
    if store.lat is not None and store.lon is not None:
        item |= {"lat": store.lat, "lon": store.lon}
    if distance_m != _FAR:
        item["distance_m"] = round(distance_m)
    return item
