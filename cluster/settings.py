"""The settings of `loyalty up`: from flags, then LOYALTY_* variables, then loyalty.toml."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cluster.errors import ClusterError
from service.settings import LogLevel
from shard_router.document import describe_faults

PORT_BASE = 8410
PORT_MIN, PORT_MAX = 1024, 65000  # of the first port; some hundreds follow it
NODES_MAX = 16  # per region and kind
STANDBYS_MAX = 2
SLOT_LAST = 4095
REGION_NAME = re.compile(r"[a-z][a-z0-9]{1,15}")

CdcSource = Literal["debezium", "pgoutput"]


class ShardSettings(BaseModel):
    """A shard as configured; what is left out is started here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str
    slots: tuple[tuple[int, int], ...] = ((0, SLOT_LAST),)
    servers: tuple[str, ...] = ()
    valkey: str | None = None


class ClusterSettings(BaseSettings):
    """The settings of `loyalty up`."""

    model_config = SettingsConfigDict(env_prefix="LOYALTY_", extra="forbid", frozen=True)

    regions: Annotated[tuple[str, ...], NoDecode] = ("eu", "us", "ap")
    cdc: CdcSource = "pgoutput"
    data: Path = Path(".loyalty/data")
    port: int = Field(default=PORT_BASE, ge=PORT_MIN, le=PORT_MAX)
    program: Path | None = None
    pg_bin: Path | None = None
    valkey: Path | None = None
    nodes: int = Field(default=1, ge=1, le=NODES_MAX)
    standby: bool = True
    standbys: int = Field(default=1, ge=1, le=STANDBYS_MAX)
    archive: Path | None = None
    log_level: LogLevel = "info"
    door: bool = True
    tls: bool = False
    geoip: Path | None = None
    places: dict[str, tuple[float, float]] = Field(default_factory=dict[str, tuple[float, float]])
    shards: dict[str, ShardSettings] = Field(default_factory=dict[str, ShardSettings])

    @field_validator("regions", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("regions")
    @classmethod
    def _named_well(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("give at least one region, each once")
        for region in value:
            if not REGION_NAME.fullmatch(region):
                raise ValueError(f"{region!r} is no region name (2 to 16 of a-z and 0-9, a letter first)")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no .env
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the TOML file that LOYALTY_CONFIG names (default loyalty.toml here)."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_settings_file())


def _settings_file() -> Path:
    return Path(os.environ.get("LOYALTY_CONFIG", "loyalty.toml"))


def read_settings(flags: Mapping[str, Any]) -> ClusterSettings:
    """The settings with these flags on top (None: not given); ClusterError in plain words when one is wrong."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return ClusterSettings(**given)
    except ValidationError as error:
        sources = f"flags, LOYALTY_* variables and {_settings_file()}"
        raise ClusterError(f"The settings from {sources} are wrong: {describe_faults(error)}") from error
    except (OSError, ValueError) as error:  # ValueError: the file is no TOML, or no UTF-8
        raise ClusterError(f"{_settings_file()}: {error}") from error
