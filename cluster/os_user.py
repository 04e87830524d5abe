"""The account PostgreSQL runs under: ours, or an unprivileged one when we are root, whom it refuses.

As root the binaries and the data folder may lie below a home directory that account cannot enter; then the ambient
capability dac_read_search opens the way (development only: it also reads other people's files). Which way works is
tried, not guessed.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

CANDIDATES = ("postgres", "nobody", "daemon")
PROBE_TIMEOUT_S = 20
SHARED = Path("/var/tmp")  # noqa: S108 - a folder of root's own in it, checked before use
# Exits 0 when the account reaches the folder and can run the program.
PROBE = 'cd "$1" && exec "$2" --version'


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged account and how a process comes to run under it."""

    name: str
    uid: int
    gid: int
    setpriv: str | None = None

    def argv(self, command: tuple[str, ...], death_signal: signal.Signals) -> tuple[str, ...]:
        """The command, behind setpriv where only that way works."""
        if self.setpriv is None:
            return command
        return (
            self.setpriv,
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
            f"--pdeathsig={death_signal.name.removeprefix('SIG')}",
            *command,
        )

    def switch(self) -> None:
        """Become the account, in a child between fork and exec; nothing to do where setpriv does it."""
        if self.setpriv is None:
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def own(self, path: Path) -> None:
        """Give the file or folder to the account."""
        os.chown(path, self.uid, self.gid)


def choose_account(folder: Path, program: Path) -> Account | None:
    """The account under which `program` may run with its data below `folder`; None when we are not root."""
    if os.geteuid() != 0:
        return None
    tried: list[str] = []
    for account in _candidates():
        refusal = _refusal(account, folder, program)
        if refusal is None:
            return account
        tried.append(f"  {account.name}{' (setpriv)' if account.setpriv else ''}: {refusal}")
    raise ClusterError(
        "PostgreSQL refuses to run as root, and no unprivileged account can run it here:\n"
        + "\n".join(tried or ["  none of " + ", ".join(CANDIDATES) + " exists"])
        + "\nRun as an ordinary user, or keep the project and the data (--data) where the account 'postgres' or"
        " 'nobody' can read."
    )


def reachable_copy(binaries: Path) -> Path:
    """A copy of a wheel's PostgreSQL (about 40 MB, made once) where every account can reach it.

    Its programs look for each other with access(2), which knows no ambient capability.
    """
    install = binaries.parent
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")  # found by its place beside the package
    stamp = hashlib.sha256(f"{install}{install.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    copy = SHARED / f"loyalty-postgres-{stamp}"
    if not copy.exists():
        building = Path(tempfile.mkdtemp(prefix="loyalty-postgres-", dir=SHARED))
        shutil.copytree(install, building / package.name / install.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, building / libraries.name, symlinks=True)
        for folder in (building, building / package.name):  # made by our umask, the rest as it was
            folder.chmod(0o755)
        try:
            building.rename(copy)
        except OSError:  # another start was faster
            shutil.rmtree(building)
    if copy.lstat().st_uid != 0 or copy.is_symlink():
        raise ClusterError(f"{copy} is not root's: remove it")
    return copy / package.name / install.name / binaries.name


def _candidates() -> list[Account]:
    setpriv = shutil.which("setpriv")
    accounts: list[Account] = []
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            accounts.append(Account(name, entry.pw_uid, entry.pw_gid))
    return accounts + [Account(a.name, a.uid, a.gid, setpriv) for a in accounts if setpriv]


def _refusal(account: Account, folder: Path, program: Path) -> str | None:
    command = ("/bin/sh", "-c", PROBE, "probe", str(folder), str(program))
    try:
        probe = subprocess.run(
            account.argv(command, signal.SIGKILL),
            preexec_fn=account.switch,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if probe.returncode == 0 else (probe.stderr.strip() or f"exit {probe.returncode}")
