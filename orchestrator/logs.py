"""The log: its lines name the job they are about, a traceback is always written, and no handler of a job ends it."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, TextIO

from orchestrator.failures import traceback_of


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to the standard error, also once a job's handler has closed `sys.stderr`, and raises nothing.

    Python closes that without its descriptor. To log to a closed one would raise in whatever thread logs, such as the
    heartbeat, which would end.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self.stream, "closed", False):
            self.stream = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            super().handleError(record)


class AsWarning(logging.Filter):
    """For what any stranger's request can cause: no error with a traceback, which would be one in Sentry, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
        return True


class LineFormatter(logging.Formatter):
    """A line that names the job it is about, and a traceback that is written whatever the exception does."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        job_id = getattr(record, "job_id", None)
        if job_id is None or str(job_id) in line:
            return line
        return f"{line} [job {job_id}, attempt {getattr(record, 'attempt', '?')}]"

    def formatException(self, ei: Any) -> str:
        return traceback_of(ei[1]).rstrip("\n") if ei[1] is not None else ""
