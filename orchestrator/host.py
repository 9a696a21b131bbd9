"""Where a process id means one process. Without Django, for checks that must be cheap."""

import os
import socket
from pathlib import Path


def host() -> str:
    """Names the place: the machine or container and, on Linux, the id namespace."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(namespace) if namespace.exists() else ''}".strip()
