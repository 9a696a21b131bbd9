"""Ends this process when no Python code runs in it any more, as while a C extension never releases the GIL.

No Python thread could notice that. faulthandler's timer can: it is set again and again by a thread that does
nothing else. When that stops, the timer writes every thread's traceback into a file and ends the process; the next
process of this host reads the file, puts it into the log, and each handler's part to the attempt.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading

from orchestrator.queue.tracebacks import limit_seconds, open_own_file, remove_own_file

logger = logging.getLogger(__name__)

SET_AGAIN_SECONDS = 1.0


class Watchdog:
    """This process's timer, and the thread that sets it again."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._file = open_own_file()
        self._thread = threading.Thread(target=self._keep_setting, name="watchdog", daemon=True)
        self._functions = faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later

    def start(self) -> Watchdog:
        # There is one timer in a process. A handler that set or cancelled it could hold the GIL for good.
        faulthandler.dump_traceback_later = faulthandler.cancel_dump_traceback_later = _leave_timer
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later = self._functions

    def _keep_setting(self) -> None:
        limit, (set_timer, cancel_timer) = limit_seconds(), self._functions
        while not self._stopped.is_set():
            set_timer(limit, exit=True, file=self._file)
            self._stopped.wait(SET_AGAIN_SECONDS)
        cancel_timer()
        if self._file is not sys.__stderr__:
            remove_own_file()


def _leave_timer(*args: object, **options: object) -> None:
    logger.warning("The timer of faulthandler stays as it is: in a worker process it is the watchdog's.")
