"""Ends this process when no Python code runs in it any more, as while a C extension never releases the GIL.

No Python thread could notice that. faulthandler's timer can: it is set again and again by a thread that does
nothing else. When that stops, the timer writes every thread's traceback into a file and ends the process; the next
process of this host reads the file, puts it into the log, and each handler's part to the attempt.
"""

from __future__ import annotations

import faulthandler
import sys
import threading

from orchestrator.queue.tracebacks import limit_seconds, open_own_file, remove_own_file

SET_AGAIN_SECONDS = 1.0


class Watchdog:
    """This process's timer, and the thread that sets it again."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._file = open_own_file()
        self._thread = threading.Thread(target=self._keep_setting, name="watchdog", daemon=True)

    def start(self) -> Watchdog:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _keep_setting(self) -> None:
        limit = limit_seconds()
        while not self._stopped.is_set():
            faulthandler.dump_traceback_later(limit, exit=True, file=self._file)
            self._stopped.wait(SET_AGAIN_SECONDS)
        faulthandler.cancel_dump_traceback_later()
        if self._file is not sys.__stderr__:
            remove_own_file()
