"""The front door of the system on this machine: an Envoy before all nodes, rendered from the topology (`edge/`).

Its folder holds what Envoy reads. Routes and clusters take effect when they are renamed into place, so a change of the
topology or of a region's share of the traffic needs no restart, and no open connection ends by it.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

import aiohttp
from pydantic import BaseModel, Field

from cluster.certificate import ensure_certificate
from cluster.country import write_loopback_countries
from cluster.document import Documents
from cluster.errors import ClusterError, in_words
from cluster.files import alone, write_json
from cluster.os_user import Account, choose_account
from cluster.plan import HOST, DoorPlan
from cluster.process import ProcessSpec
from edge.decision import Door, EdgeError, make_door
from edge.envoy import BOOTSTRAP, Listening, render_dynamic, render_envoy
from edge.geography import REGIONS, Place
from edge.reply import Pages
from service.cors import READABLE
from service.settings import PREFIX, read_origins
from shard_router.document import read_document
from shard_router.topology import read_topology

NAME: Final = "door"
ACCESS_LOG: Final = "access.log"
NOWHERE: Final = (0.0, 0.0)  # of a region whose name tells no place, and for which no setting does
ADMIN_TIMEOUT_S: Final = 2.0
TAKEN_DEADLINE_S: Final = 30.0
WELL_DEADLINE_S: Final = 10.0
_POLL_S: Final = 0.05
_STOP_S: Final = 5.0
_MAXMIND: Final = b"\xab\xcd\xefMaxMind.com"  # what its metadata begin with, within the last 128 KiB of a database
_METADATA_BYTES_MAX: Final = 128 * 1024
# What Envoy counts for each file that it reads again.
_TAKEN: Final = ("cluster_manager.cds", "http.door.rds.door")
# Clusters it has read and does not go by yet: it looks first how their nodes are.
_WARMING: Final = "cluster_manager.warming_clusters"
# Of each cluster, its nodes, and those of them that it has found well.
_MEMBERS, _WELL = "membership_total", "membership_healthy"


class DoorState(BaseModel):
    """What the door keeps over restarts: where it stands, and the share of its traffic that a region takes (percent).

    A region that is not named takes all of its own. `places` are latitude and longitude of regions whose names tell
    none.
    """

    url: str
    admin_port: int
    places: dict[str, tuple[float, float]] = Field(default_factory=dict[str, tuple[float, float]])
    shares: dict[str, int] = Field(default_factory=dict[str, int])


def check_door(plan: DoorPlan | None) -> None:
    """ClusterError for countries that Envoy would not start with: it starts last, and says so at length."""
    if plan is None or plan.geoip is None:
        return
    try:
        with plan.geoip.open("rb") as file:
            file.seek(max(0, plan.geoip.stat().st_size - _METADATA_BYTES_MAX))
            is_database = _MAXMIND in file.read()
    except OSError as error:
        raise ClusterError(f"the countries {plan.geoip} cannot be used: {in_words(error)}") from error
    if not is_database:
        raise ClusterError(f"the countries {plan.geoip} cannot be used: it is no MaxMind database")


def door_process(data: Path, plan: DoorPlan) -> ProcessSpec:
    """Write all that Envoy starts with; it is ready when it has heard of every node once."""
    folder = Documents(data).door
    account = choose_account(data, plan.program)
    _prepare(data, plan, account)
    admin = f"http://{HOST}:{plan.admin_port}"
    words = ("-c", str(folder / BOOTSTRAP), "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
    return ProcessSpec(
        name=NAME,
        argv=(str(plan.program), *words),
        log=Documents(data).log(NAME),
        other_logs=(folder / ACCESS_LOG,),
        port=plan.port,
        probe=lambda: _admin_says(f"{admin}/ready", ADMIN_TIMEOUT_S),
        alive=lambda: _admin_says(f"{admin}/server_info", None),
        account=account,
        stop_deadline_s=_STOP_S,
    )


def _prepare(data: Path, plan: DoorPlan, account: Account | None) -> None:
    folder = Documents(data).door
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    certificate, key = ensure_certificate(folder) if plan.tls else (None, None)
    access_log = folder / ACCESS_LOG
    access_log.touch(mode=0o640)
    listening = Listening(
        folder=folder,
        port=plan.port,
        admin_port=plan.admin_port,
        geoip=plan.geoip or write_loopback_countries(folder),
        certificate=certificate,
        key=key,
        access_log=access_log,
        pages=Pages(read_origins(os.environ.get(f"{PREFIX}CORS_ORIGINS", "")), READABLE),  # as the nodes started here
    )
    before = read_state(data)
    known = read_topology(Documents(data).topology).document.regions
    state = DoorState(
        url=plan.url,
        admin_port=plan.admin_port,
        places=dict(plan.places),
        shares={name: percent for name, percent in before.shares.items() if name in known} if before else {},
    )
    _write_state(data, state)
    for name, document in render_envoy(_door(data, state), listening).items():
        write_json(folder / name, document)
    if account is not None:
        for path in (folder, *folder.iterdir()):
            account.own(path)


def read_state(data: Path) -> DoorState | None:
    """The door of a data folder; None when it never had one."""
    path = Documents(data).door_state
    return read_document(path, DoorState) if path.exists() else None


def hide_region(data: Path, region: str) -> None:
    """Have a region that the topology is about to name take nothing; nothing to do without a door."""
    with _alone(data):
        if state := read_state(data):
            _write_state(data, state.model_copy(update={"shares": {**state.shares, region: 0}}))


async def forget_region(data: Path, region: str) -> None:
    """Have the door know no more of a region that the topology has no more; nothing to do without a door."""
    with _alone(data):
        if state := read_state(data):
            state.shares.pop(region, None)
            counted = await _taken(state.admin_port)
            _write_dynamic(data, state)
            _write_state(data, state)
            await _until_taken(state.admin_port, counted)


async def share_traffic(data: Path, region: str, percent: int) -> None:
    """Give a region this share of the traffic that is its own; returns when Envoy does so.

    ClusterError without a door, for an unknown region, for the last one that takes anything, or when Envoy refuses.
    """
    with _alone(data):
        await _share_traffic(data, region, percent)


def _alone(data: Path) -> AbstractContextManager[None]:
    """What is read of the shares and written again: `evacuate` may run beside a region that joins or goes."""
    return alone(Documents(data).door_state.with_suffix(".lock"))


async def _share_traffic(data: Path, region: str, percent: int) -> None:
    state = read_state(data)
    if state is None:
        raise ClusterError("this system has no front door: install the extra `edge` and start it again")
    known = read_topology(Documents(data).topology).document.regions
    if region not in known:
        raise ClusterError(f"there is no region {region}")
    if percent and known[region].state != "active":  # the door would send newcomers where they are refused
        raise ClusterError(
            f"{region} is {known[region].state} and takes no new members: "
            f"`loyalty region add {region}` has it take them, and gives it its traffic"
        )
    wanted = state.model_copy(update={"shares": {**state.shares, region: percent}})
    counted = await _taken(state.admin_port)
    _write_dynamic(data, wanted)
    await _until_taken(state.admin_port, counted)
    _write_state(data, wanted)  # event streams follow it: whoever comes back must be sent elsewhere by then


def _write_dynamic(data: Path, state: DoorState) -> None:
    for name, document in render_dynamic(_door(data, state)).items():
        write_json(Documents(data).door / name, document)


def _door(data: Path, state: DoorState) -> Door:
    topology = read_topology(Documents(data).topology).document
    places = {name: Place(*state.places.get(name, REGIONS.get(name, NOWHERE))) for name in topology.regions}
    shares = {name: percent for name, percent in state.shares.items() if name in topology.regions}
    try:
        return make_door(topology, places=places, shares=shares)
    except EdgeError as error:
        raise ClusterError(str(error)) from error


def _write_state(data: Path, state: DoorState) -> None:
    write_json(Documents(data).door_state, state.model_dump())


async def _admin_says(url: str, timeout_s: float | None) -> str | None:
    """None when Envoy's admin page answers 200, else why not."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return None if answer.ok else (await answer.text()).strip()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__


async def found_well(admin_port: int, *, deadline_s: float = WELL_DEADLINE_S) -> bool:
    """Whether Envoy has found every node well, as soon as it has or when the deadline is over.

    Until then what is for a node that it has not heard of goes to the next region.
    """
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        with suppress(ClusterError):
            now = await _stats(admin_port, rf"^cluster\..*\.({_MEMBERS}|{_WELL})$")
            nodes = {name: count for name, count in now.items() if name.endswith(_MEMBERS)}
            if nodes and all(now.get(name.removesuffix(_MEMBERS) + _WELL) == count for name, count in nodes.items()):
                return True
        await asyncio.sleep(_POLL_S)
    return False


async def _taken(admin_port: int) -> dict[str, int]:
    """How often Envoy took each of its files, and what is not in effect yet; ClusterError when it does not answer."""
    names = "|".join(_TAKEN).replace(".", "\\.")
    return await _stats(admin_port, f"^({names})\\.(update_success|update_rejected)$|^{_WARMING}$")


async def _stats(admin_port: int, names: str) -> dict[str, int]:
    """What Envoy counts under names of this pattern; ClusterError when it does not answer."""
    timeout = aiohttp.ClientTimeout(total=ADMIN_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{HOST}:{admin_port}/stats", params={"format": "json", "filter": names}) as answer,
        ):
            stats = (await answer.json(content_type=None))["stats"]
    except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as error:
        raise ClusterError(f"the front door does not answer ({type(error).__name__}): `loyalty status`") from error
    return {one["name"]: one["value"] for one in stats if "name" in one}


async def _until_taken(admin_port: int, before: Mapping[str, int]) -> None:
    """Return when Envoy goes by both files as they are now; ClusterError when it refused one or is too slow."""
    until = time.monotonic() + TAKEN_DEADLINE_S
    while time.monotonic() < until:
        now = await _taken(admin_port)
        if any(now[name] > before.get(name, 0) for name in now if name.endswith("update_rejected")):
            raise ClusterError(
                "the front door refused its new configuration and goes on with the one before; see its log"
            )
        taken = all(now.get(f"{name}.update_success", 0) > before.get(f"{name}.update_success", 0) for name in _TAKEN)
        if taken and not now.get(_WARMING):
            return
        await asyncio.sleep(_POLL_S)
    raise ClusterError(f"the front door did not take its new configuration in {TAKEN_DEADLINE_S:.0f} s; see its log")
