"""Ports of this machine: one that is free, and who holds one that is not."""

import socket
from contextlib import suppress

import psutil


class PortTaken(Exception):
    """Something else listens on the port."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def require_free_port(port: int, setting: str) -> None:
    """Raises PortTaken, in one line that says what to do, when something listens on the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            raise PortTaken(f"Port {port} may not be used by this user; set {setting} to 1024 or more.") from None
        except OSError:
            raise PortTaken(f"Port {port} is taken{_holder(port)}; free it or set {setting} to another.") from None


def _holder(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
