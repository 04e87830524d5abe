"""What `loyalty bench` can run: small TOML files, checked here (those in benchmarks/scenarios, or one of yours)."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.order import CommandKind
from shard_router.document import describe_faults

FOLDER: Final = Path(__file__).parent / "scenarios"
Group = Literal["command", "query"]
QueryKind = Literal["account", "member", "activity"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class ScenarioError(Exception):
    """A scenario that cannot be run; the text says which and why."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Traffic(_Checked):
    """What requests are made of. Shares are of the requests they speak of."""

    members: Annotated[int, Field(ge=3, le=10_000_000)] = 1500
    zipf: Annotated[float, Field(ge=0, le=2)] = 0.99
    """How popular the popular ones are; 0: all alike. 0.99 is YCSB's default skew."""
    hot_member_share: Share = 0.0
    hot_store_share: Share = 0.0
    away_share: Share = 0.15
    """Of requests that arrive in any region; the Complete Journey's households shop 17 % away from home."""
    duplicate_share: Share = 0.0
    read_back_share: Share = 0.0
    """Of commands that are followed at once by a read with their token."""
    token_share: Share = 0.2
    etag_share: Share = 0.2
    streams: Annotated[int, Field(ge=0, le=10_000)] = 0
    points_to_begin: Annotated[int, Field(ge=0)] = 0
    commands: dict[CommandKind, Positive] = {"purchase": 1}
    queries: dict[QueryKind, Positive] = {"account": 70, "member": 15, "activity": 15}


class Targets(_Checked):
    """What must be reached, else the benchmark exits with 1."""

    p99_ms: dict[Literal["command", "query", "visible"], Positive] = {}
    error_share_max: Share = 0.001
    busy_max: Share | None = None


class Scenario(_Checked):
    """One file. What is measured is `rates`, or one of `steps`, `flood` and `grow`."""

    text: str
    rates: dict[Group, Positive] = {}
    duration_s: Seconds = 30.0
    warm_up_s: Annotated[float, Field(ge=0, le=600)] = 5.0
    freeze_at_s: Seconds | None = None
    """When the primary of the first shard is stopped (SIGSTOP), counted from the start of the record."""
    steps: Group | None = None
    """Growing rates (x 1.5) until one is not sustained."""
    flood: list[Positive] = []
    """Times of the measured peak of purchases."""
    grow: list[Annotated[int, Field(ge=10)]] = []
    """Numbers of members at which the CPU per request is measured."""
    traffic: Traffic = Traffic()
    targets: Targets | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [name for name in ("rates", "steps", "flood", "grow") if getattr(self, name)]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of rates, steps, flood, grow (here: {', '.join(kinds) or 'none'})")
        if self.freeze_at_s is not None and (not self.rates or self.freeze_at_s >= self.duration_s):
            raise ValueError("freeze_at_s needs rates, and lies before the end of duration_s")
        if sorted(self.grow) != self.grow:
            raise ValueError("grow: numbers of members grow")
        return self


def names() -> list[str]:
    """The scenarios that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_scenario(name: str) -> tuple[str, Scenario]:
    """The name and content of one that comes along, or of a file; ScenarioError when it is none."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return path.stem, Scenario.model_validate(document)
    except FileNotFoundError as error:
        raise ScenarioError(f"no scenario {name}: there are {', '.join(names())}, or give a .toml file") from error
    except ValidationError as error:
        raise ScenarioError(f"{path}: {describe_faults(error)}") from error
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from error
