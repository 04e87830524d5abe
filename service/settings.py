"""Settings of every process: flags, then LOYALTY_* variables, then the TOML file named by --config."""

import os
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from shard_router.document import describe_faults
from shard_router.errors import DocumentError

PREFIX: Final = "LOYALTY_"
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(lambda v: str(v).lower())
]
ANY_ORIGIN: Final = "*"
_ORIGIN: Final = re.compile(r"\*|https?://[^/\s*]+")


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError("an origin is like https://app.example, without a path; * is any")
    return text


def _listed(value: Any) -> Any:
    """A variable lists them with blanks or commas between."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_listed)]


def read_origins(text: str) -> tuple[str, ...]:
    """What `cors_origins` says, as a variable writes it; DocumentError for what is no origin."""
    try:
        return TypeAdapter(Origins).validate_python(text)
    except ValidationError as error:
        raise DocumentError(f"cors_origins: {describe_faults(error)}") from error


AtLeastOne = Annotated[int, Field(ge=1)]


class NodeSettings(BaseModel):
    """What every node needs to know. Paths are read while running: both documents may change under it.

    pydantic-settings would do the same, but each forked node would write 2 MiB more of the pages it shares.
    """

    model_config = ConfigDict(extra="ignore")

    region: str
    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)
    address: str | None = None
    """What the topology calls this node; without, nothing is handed to other nodes of its region."""
    zone: str | None = None
    """Its data centre: of several standbys the one there is read first."""
    topology: Path
    credentials: Path
    secrets: Path | None = None
    """Folder with a file per password, for server addresses in the topology that name a user and no password."""
    log_level: LogLevel = "info"
    deadline_ms: AtLeastOne = 5_000
    """Longest time a request may take when the client names none; tills give up at 5 to 6 s (Toast, ECRS)."""
    body_bytes_max: AtLeastOne = 1_048_576
    """As sent. A basket of 1,000 lines with the longest names stays below."""
    inflated_bytes_max: AtLeastOne = 1_048_576
    """What a compressed body may become."""
    in_flight_max: AtLeastOne = 512
    """Requests under way at once; one more is told to come back. One credential below `admin` has a quarter of them."""
    overload_delay_ms: AtLeastOne = 20
    """How long the first of each batch may wait in its lane before less is let in; the source is at TARGET_S."""
    bodies_arriving_max: AtLeastOne = 256
    """Bodies that did not come along with their head, a mebibyte each at worst; of them too one has a quarter."""
    connections_max: AtLeastOne = 10_000
    """Connections of clients at once, and at most half of the files a process may open; one more takes the room of the
    one that has asked nothing for the longest time."""
    head_timeout_s: float = Field(default=10.0, gt=0)
    """How long a request's head may take, from its first byte or from when a client connects."""
    idle_timeout_s: float = Field(default=75.0, gt=0)
    """How long a connection may ask nothing, or take nothing of an answer; more than proxies keep theirs (60 s)."""
    cors_origins: Origins = ()
    """Origins whose pages may ask this node, like `https://app.example`; `*` for any."""
    drain_grace_s: float = Field(default=0.0, ge=0)
    """How long a node told to stop serves on while /readyz says no: as long as balancers take to see it."""
    drain_s: float = Field(default=5.0, ge=0)
    """How long a stopping node finishes what it has."""

    @classmethod
    def load(cls, config: Path | None) -> Self:
        """Settings from the environment over the TOML file; DocumentError names what is missing or wrong."""
        if config is not None and not config.is_file():
            raise DocumentError(f"{config}: no such file")

        where = f"{config} and LOYALTY_* variables" if config else "LOYALTY_* variables (no --config FILE given)"
        try:
            return cls.model_validate(_from_file(config) | cls._from_environment())
        except ValidationError as error:
            raise DocumentError(f"settings, from {where}: {describe_faults(error)}") from error
        except (OSError, ValueError) as error:  # ValueError: no TOML, or no UTF-8
            raise DocumentError(f"{config}: {error}") from error

    @classmethod
    def check_environment(cls, *, but: Collection[str]) -> None:
        """DocumentError naming the first LOYALTY_* variable that a process of this kind would not start with.

        `but` are those that it does not get.
        """
        for name, text in cls._from_environment().items():
            field = cls.model_fields[name]
            if name in but:
                continue
            try:
                TypeAdapter[Any](field.rebuild_annotation()).validate_python(text)
            except ValidationError as error:
                raise DocumentError(f"{PREFIX}{name.upper()}: {describe_faults(error)}") from error

    @classmethod
    def _from_environment(cls) -> dict[str, str]:
        variables = {name.upper(): value for name, value in os.environ.items()}
        names = {name: f"{PREFIX}{name}".upper() for name in cls.model_fields}
        return {name: variables[variable] for name, variable in names.items() if variable in variables}


def _from_file(config: Path | None) -> dict[str, Any]:
    return tomllib.loads(config.read_text(encoding="utf-8")) if config else {}


SETTINGS: Final = web.AppKey("settings", NodeSettings)
