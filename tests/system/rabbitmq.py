"""A RabbitMQ of a test's own: Debian's server, on loopback and free ports, gone with the test."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from config.local.ports import free_port
from config.local.server import Server

# The server itself; the program of that name in the PATH switches to a system user first.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ(Server):
    """A node that keeps its data in a folder, to be stopped, killed and started at will."""

    name = "RabbitMQ"
    program = "beam.smp"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, free_port())
        self.distribution_port, self.epmd_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def prepare(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> list[str]:
        return [str(SERVER)]

    def responds(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def identity(self) -> dict[str, Any]:
        """With an environment of its own, too: all that the server is told."""
        return {"env": self._environment()}

    def destroy(self) -> None:
        """Stops the server and the directory of Erlang nodes that it started."""
        self.stop()
        subprocess.run(
            ["epmd", "-port", str(self.epmd_port), "-kill"], env=self._environment(), check=False, capture_output=True
        )

    def _environment(self) -> dict[str, str]:
        folder = self.data_dir
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            # One process instead of a shell around it, so that a signal reaches the server.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": "muster@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "no-plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",
            "ERL_EPMD_PORT": str(self.epmd_port),
        }
