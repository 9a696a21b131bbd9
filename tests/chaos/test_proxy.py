"""The network of the suite: what it does to connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing

import pytest

from tests.chaos.network import new_namespace, proxy_to
from tests.chaos.proxy import POSTGRESQL_KEEPALIVE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

CONNECT_AND_STAY = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.sendall(b"here")
    sys.stdin.read()
"""


def test_a_server_is_told_of_a_client_whose_packets_vanish() -> None:
    namespace = new_namespace()
    if namespace is None:
        pytest.skip("No network namespace can be made here")
    with closing(namespace), socket.create_server(("127.0.0.1", 0)) as server:
        between = proxy_to(server.getsockname()[1], namespace, POSTGRESQL_KEEPALIVE)
        command = [sys.executable, "-c", CONNECT_AND_STAY, between.host, str(between.port)]
        client = subprocess.Popen([*namespace.prefix, *command], stdin=subprocess.PIPE)
        try:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(4) == b"here"
                namespace.drop_packets()

                connection.settimeout(15)
                assert connection.recv(1) == b""
        finally:
            client.kill()
            client.wait()
            between.stop()
