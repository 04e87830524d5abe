"""A start that finds a port taken says who has it: another program, or a connection that nobody needs any more."""

import os
import socket
import sys

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.port import check_ports
from tests.engine import free_port

told = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells root alone")


def words_of(port: int) -> str:
    with pytest.raises(ClusterError) as raised:
        check_ports({port: "eu-command"})
    return str(raised.value)


@told
def test_who_listens_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        words = words_of(listening.getsockname()[1])
    assert f"(for eu-command): {psutil.Process().name()} (process {os.getpid()}) listens there" in words


@told
def test_a_connection_that_has_just_ended_is_told_from_a_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), source_address=("127.0.0.1", 0))  # alone on its port
        port = client.getsockname()[1]
        accepted, _ = server.accept()
        with accepted:
            assert f"an outgoing connection of {psutil.Process().name()} (process {os.getpid()}) has it" in words_of(
                port
            )
            client.close()  # first, so that its port is the one that waits
            assert accepted.recv(1) == b""
    assert "free within a minute" in words_of(port)


def test_what_a_server_of_ours_leaves_behind_takes_no_port() -> None:
    """Its sockets wait, too, but the next server may listen there."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
    check_ports({port: "eu-command"})
