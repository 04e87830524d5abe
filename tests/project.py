"""The project's folder, its packages, and the passwords each part of it needs."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
PASSWORDS_NEEDED = {
    "postgres": {"postgres_superuser", "postgres_standby"},
    "valkey": {"valkey_projector", "valkey_query"},
    "command": {"postgres_node"},
    "query": {"postgres_reader", "valkey_query"},
    "cdc": {"postgres_projector", "valkey_projector"},
}
