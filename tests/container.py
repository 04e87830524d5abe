"""The servers of tests/engine.py as containers (testcontainers), set up by the files that compose.yml mounts."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import postgres
from cluster.login import SUPERUSER_NAME, secure
from tests.engine import (
    FAST,
    PASSWORD,
    PASSWORDS,
    VALKEY_ADMIN,
    PostgresServer,
    ValkeyServer,
    server_folder,
)

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ALONE = {"synchronous_standby_names": "", "synchronized_standby_slots": ""}


@asynccontextmanager
async def container_postgres(*, standby: bool = False) -> AsyncGenerator[PostgresServer]:
    """A primary, on request with a synchronous hot standby."""
    require_docker()
    from testcontainers.core.network import Network  # noqa: PLC0415 - only where containers are asked for

    with ExitStack() as stack:
        network = stack.enter_context(Network())
        secrets = stack.enter_context(_secrets())
        settings = FAST if standby else FAST | ALONE
        one = _server(network, "one", {"PEER": "two", "FOUNDER": "yes"}, settings, secrets)
        url = _address(stack.enter_context(one))
        await secure(url, PASSWORDS)
        if not standby:
            yield stack.enter_context(closing(PostgresServer(url)))
            return
        await postgres.keep_for_standby(url)
        two = stack.enter_context(_server(network, "two", {"PEER": "one"}, settings, secrets))
        await postgres.wait_streaming(url, "standby")
        yield stack.enter_context(closing(PostgresServer(url, _address(two))))


@contextmanager
def _secrets() -> Generator[Path]:
    """The folder that compose.yml mounts as secrets: whatever user a container has, it must read them."""
    with server_folder() as folder:
        for name, password in PASSWORDS.items():
            (folder / name).write_text(f"{password}\n")
            (folder / name).chmod(0o644)
        yield folder


def _server(
    network: object, name: str, role: dict[str, str], settings: dict[str, str], secrets: Path
) -> DockerContainer:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import ExecWaitStrategy  # noqa: PLC0415

    environment = {
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "postgres",
        "POSTGRES_INITDB_ARGS": "--data-checksums --locale=C",
    }
    return (
        DockerContainer("postgres:18", network=network, network_aliases=[name])
        .with_envs(**environment, **role)
        .with_exposed_ports(5432)
        .with_volume_mapping(DEPLOY / "postgres", "/etc/loyalty", "ro")
        .with_volume_mapping(secrets, "/run/secrets", "ro")
        .with_kwargs(entrypoint=["bash", "/etc/loyalty/postgres.sh"], user="postgres")
        .with_tmpfs_mount("/var/run/postgresql")
        .with_command([word for setting, value in settings.items() for word in ("-c", f"{setting}={value}")])
        .waiting_for(ExecWaitStrategy(["pg_isready", "--host=127.0.0.1"]))
    )


def _address(container: DockerContainer) -> str:
    port = container.get_exposed_port(5432)
    return f"postgresql://{SUPERUSER_NAME}:{PASSWORD}@{container.get_container_host_ip()}:{port}/postgres"


@asynccontextmanager
async def container_valkey() -> AsyncGenerator[ValkeyServer]:
    """Valkey."""
    require_docker()
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import ExecWaitStrategy  # noqa: PLC0415

    with _secrets() as secrets:
        container = (
            DockerContainer("valkey/valkey:9")
            .with_exposed_ports(6379)
            .with_volume_mapping(DEPLOY / "valkey", "/etc/loyalty", "ro")
            .with_volume_mapping(secrets, "/run/secrets", "ro")
            .with_kwargs(entrypoint=["bash", "/etc/loyalty/valkey.sh"], user="999:999")
            .with_tmpfs_mount("/data")
            .with_command(["--user", *VALKEY_ADMIN.split()[1:]])
        )
        answers = f"valkey-cli --user tester --pass {PASSWORD} --no-auth-warning ping | grep -q PONG"
        with container.waiting_for(ExecWaitStrategy(["bash", "-c", answers])) as server:
            place = f"{server.get_container_host_ip()}:{server.get_exposed_port(6379)}"
            yield ValkeyServer(f"redis://tester:{PASSWORD}@{place}")


def require_docker() -> None:
    """Skip, and say why, when containers are asked for and no engine answers."""
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415

    # Its reaper is one more image to pull; the fixtures end what they start.
    testcontainers_config.ryuk_disabled = True
    try:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            try:
                docker.from_env().close()
            finally:
                gc.collect()  # the client leaves its socket open when nobody answers
    except DockerException as error:
        pytest.skip(f"LOYALTY_TEST_ENGINE=containers, but no Docker engine answers: {error}")
