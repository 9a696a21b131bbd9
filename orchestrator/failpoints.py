"""Points at which a process can be made to die, so that tests can show that a crash anywhere loses nothing.

FAILPOINTS names a folder. A process that reaches a point while a file of the point's name lies there deletes the file
and ends by SIGKILL: one file, one crash, in whichever process comes first. Unset, a point costs nothing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from django.conf import settings

NAMES: set[str] = set()
"""The points of every module imported so far."""


class Failpoint:
    """A named point, declared once by the module that calls it."""

    def __init__(self, name: str) -> None:
        NAMES.add(name)
        self.ticket = Path(settings.ENV.FAILPOINTS) / name if settings.ENV.FAILPOINTS else None

    def __call__(self) -> None:
        if self.ticket is not None:
            try:
                self.ticket.unlink()
            except FileNotFoundError:
                return
            os.kill(os.getpid(), signal.SIGKILL)
