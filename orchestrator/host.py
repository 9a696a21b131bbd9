"""Where a process id means one process. Without Django, for checks that must be cheap."""

import os
import socket
from pathlib import Path


def host() -> str:
    """Names the place: the machine or container and, on Linux, the id namespace."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(namespace) if namespace.exists() else ''}".strip()


def process_started(pid: int) -> str | None:
    """When the process started, in the kernel's terms, since ids are used again; None if there is no such process."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _exists(pid)
    return None if state == "Z" else fields[18]


def _exists(pid: int) -> str | None:
    """Where there is no /proc, all that can be asked is whether the id is in use."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
