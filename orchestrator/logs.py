"""The form of lines in the log: they name the job they are about, and a traceback is always written."""

from __future__ import annotations

import logging
from typing import Any

from orchestrator.failures import traceback_of


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
