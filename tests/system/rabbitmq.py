"""A RabbitMQ of a test's own: Debian's server, on loopback and free ports, gone with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from config.embedded import free_port

# The server itself; the program of that name in the PATH switches to a system user first.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ:
    """A node that keeps its data in a folder. `url` is a broker URL once `start` has returned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.distribution_port, self.epmd_port = (free_port() for _ in range(3))
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._log = (folder / "log").open("wb")

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(SERVER)],
            env=self._environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)
        subprocess.run(
            ["epmd", "-port", str(self.epmd_port), "-kill"], env=self._environment(), check=False, capture_output=True
        )
        self._log.close()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def forget(self) -> None:
        """Makes the next life of the killed node begin with nothing."""
        shutil.rmtree(self.folder / "mnesia", ignore_errors=True)

    def process(self) -> psutil.Process:
        """The process that serves."""
        return psutil.Process(self._process.pid)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": "muster@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "no-plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",
            "ERL_EPMD_PORT": str(self.epmd_port),
        }
