"""Hosts on one machine: network namespaces of the test's own, joined by a bridge, so that one loses its network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

IP = shutil.which("ip") or "/usr/sbin/ip"


def ip(*words: str) -> None:
    """One command of iproute2."""
    done = subprocess.run((IP, *words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Hosts:
    """Where hosts are; without namespaces all of them are this machine."""

    why_not: str = ""
    """Why there are no namespaces; empty when there are."""
    gateway: str = ""
    """This machine, as they see it."""
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    namespaces: dict[str, str] = field(default_factory=dict[str, str])

    def address(self, name: str) -> str:
        return self.addresses.get(name, "127.0.0.1")

    def argv(self, name: str, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command on a host; root's to run."""
        return (IP, "netns", "exec", self.namespaces[name], *command) if name in self.namespaces else command

    def cut(self, name: str, *others: str) -> None:
        """Nothing goes from a host to these any more, so no answer comes from them either; this machine reaches it."""
        for other in others:
            ip("-n", self.namespaces[name], "route", "add", "blackhole", f"{self.addresses[other]}/32")

    def heal(self, name: str, *others: str) -> None:
        for other in others:
            ip("-n", self.namespaces[name], "route", "del", "blackhole", f"{self.addresses[other]}/32")


@contextmanager
def hosts(*names: str) -> Generator[Hosts]:
    """A host of each name."""
    if sys.platform != "linux" or os.geteuid() != 0:
        yield Hosts("only root on Linux can make network namespaces")
        return
    with ExitStack() as stack:
        try:
            made = _make(names, stack)
        except OSError as error:
            stack.close()
            made = Hosts(f"no network namespaces here: {error}")
        yield made


def _make(names: tuple[str, ...], stack: ExitStack) -> Hosts:
    own, net = f"ly{os.getpid() % 100_000}", f"10.77.{os.getpid() % 250}"
    made = Hosts(gateway=f"{net}.1")
    switch = _namespace(
        f"{own}-net", stack
    )  # its own: where Docker runs, what crosses a bridge of this machine is dropped
    ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    ip("-n", switch, "link", "set", "bridge", "up")
    ip("link", "add", f"{own}g", "type", "veth", "peer", "name", "gateway", "netns", switch)
    stack.callback(ip, "link", "del", f"{own}g")
    ip("-n", switch, "link", "set", "gateway", "master", "bridge", "up")
    ip("addr", "add", f"{made.gateway}/24", "dev", f"{own}g")
    ip("link", "set", f"{own}g", "up")
    for number, name in enumerate(names, 10):
        space = made.namespaces[name] = _namespace(f"{own}-{name}", stack)
        made.addresses[name] = f"{net}.{number}"
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", switch)
        ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
        ip("-n", space, "addr", "add", f"{made.addresses[name]}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", space, "link", "set", device, "up")
    return made


def _namespace(name: str, stack: ExitStack) -> str:
    ip("netns", "add", name)
    stack.callback(ip, "netns", "del", name)
    return name
