"""Looks, before anything is started, whether its ports are free, and tells who has one that is not."""

import socket
from collections.abc import Iterable, Mapping

import psutil

from cluster.errors import ClusterError
from cluster.plan import HOST


def check_ports(ports: Mapping[int, str]) -> None:
    """ClusterError naming every port that is taken, what wanted it, and who has it."""
    taken = [port for port in sorted(ports) if not _free(port)]
    if taken:
        holders = _holders(taken)
        lines = [f"  {port} (for {ports[port]}){holders.get(port, '')}" for port in taken]
        raise ClusterError(
            "These ports are taken:\n" + "\n".join(lines) + "\nFree them, or choose another range with --port BASE."
        )


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holders(ports: Iterable[int]) -> dict[int, str]:
    """Who has each port, as far as the system tells: not every one tells everybody."""
    wanted, found = set(ports), dict[int, str]()
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return found
    for one in connections:
        port = one.laddr.port if one.laddr else None
        if port not in wanted:
            continue
        if one.status == psutil.CONN_LISTEN:
            found[port] = f": {_name(one.pid)} listens there"
        elif one.status == psutil.CONN_TIME_WAIT:
            found.setdefault(port, ": an outgoing connection had it and has just ended; free within a minute")
        else:
            found.setdefault(port, f": an outgoing connection of {_name(one.pid)} has it")
    return found


def _name(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    try:
        return f"{psutil.Process(pid).name()} (process {pid})"
    except psutil.Error:
        return f"process {pid}"
