"""PostgreSQL where every account can reach it."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from cluster import os_user


@pytest.fixture
def narrow_umask() -> Generator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers under another account")
@pytest.mark.usefixtures("narrow_umask")
def test_every_account_reaches_the_copy_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os_user, "SHARED", tmp_path)
    binaries = tmp_path / "package" / "install" / "bin"
    binaries.mkdir(parents=True)
    for folder in (binaries, binaries.parent):
        folder.chmod(0o755)  # as a wheel has them
    copy = os_user.reachable_copy(binaries)
    for folder in (copy, *copy.parents[:3]):
        assert folder.stat().st_mode & 0o005 == 0o005, folder
