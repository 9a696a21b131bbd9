"""The files in which processes that their watchdogs ended leave tracebacks, and what becomes of those."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO

from django.conf import settings

from orchestrator.failures import MAX_TRACEBACK_CHARACTERS
from orchestrator.host import host, process_started
from orchestrator.kind_problems import UnknownKind
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Attempt, Worker

logger = logging.getLogger(__name__)

SUFFIX = ".traceback"
# Of a file that is in the log, and whose attempts are still to be found: so long.
LOGGED = ".logged"
KEPT_SECONDS = 60
# An attempt that ended so long before or after its process did ended with it: its lease ran out, or was taken back.
ENDED_TOGETHER = timedelta(minutes=5)


def limit_seconds() -> float:
    """After how long a watchdog ends its process: longer than a lease, so that nothing is ended which could go on.

    Whoever is frozen or starved for so long has lost its jobs by then, and is better replaced.
    """
    return settings.ENV.LEASE_SECONDS + settings.ENV.HARD_TIMEOUT_GRACE_SECONDS


def folder() -> Path:
    return Path(tempfile.gettempdir()) / f"muster-{os.getuid()}"


def path_of(pid: int, started: str) -> Path:
    """Where that process of this host leaves its traceback."""
    return folder() / f"{_host_number()}-{pid}-{started}{SUFFIX}"


def open_own_file() -> IO[str]:
    """Where this process's goes: into the log itself where nobody comes after it who could read a file."""
    assert sys.__stderr__
    if os.getpid() == 1:
        return sys.__stderr__
    try:
        folder().mkdir(mode=0o700, exist_ok=True)
        if folder().stat().st_uid != os.getuid():
            raise PermissionError(f"{folder()} belongs to another user")
        return _own_path().open("w")
    except OSError as error:
        logger.warning("Tracebacks of killed processes are only written to the log: %s", error)
        return sys.__stderr__


def remove_own_file() -> None:
    _own_path().unlink(missing_ok=True)


def was_ended(pid: int, started: str) -> bool:
    """Whether that process of this host was ended by its watchdog."""
    paths = [path_of(pid, started).with_suffix(suffix) for suffix in (SUFFIX, LOGGED)]
    return any(path.stat().st_size for path in paths if path.exists())


def collect_tracebacks() -> None:
    """Logs what processes of this host left that were ended so, and adds it to their attempts."""
    for path in folder().glob(f"{_host_number()}-*{SUFFIX}"):
        _, pid, started = path.stem.split("-")
        if process_started(int(pid)) != started:
            with suppress(FileNotFoundError):  # Another process was first.
                _log(path.rename(path.with_suffix(LOGGED)))
    for path in folder().glob(f"{_host_number()}-*{LOGGED}"):
        with suppress(FileNotFoundError):
            # The attempts may be ended only just now, by others.
            if _attach(path) or time.time() - path.stat().st_mtime > KEPT_SECONDS:
                path.unlink()


def _log(path: Path) -> None:
    if text := path.read_text(errors="replace"):
        _, pid, _ = path.stem.split("-")
        logger.error(
            "Process %s was killed because no Python code ran in it any more. Its threads were here:\n%s", pid, text
        )
    else:
        path.unlink()


def _attach(path: Path) -> bool:
    """Adds to each attempt that ended with the process where its handler was; False if there is none."""
    _, pid, started = path.stem.split("-")
    text = path.read_text(errors="replace")
    lives = Worker.objects.filter(host=host(), pid=pid, process_started=started, ended_at__isnull=False)
    worker = lives.order_by("id").last()
    if worker is None or worker.ended_at is None:
        return False
    ended = Attempt.objects.filter(
        worker_name=worker.name,
        traceback="",
        outcome__in=(Attempt.Outcome.TIMED_OUT, Attempt.Outcome.LOST),
        ended_at__range=(worker.ended_at - ENDED_TOGETHER, worker.ended_at + ENDED_TOGETHER),
    )
    attached = False
    for attempt in ended.select_related("job"):
        with suppress(UnknownKind):
            if found := threads_of(kind_named(attempt.job.kind), text):
                attached = True
                Attempt.objects.filter(id=attempt.id).update(traceback=found[:MAX_TRACEBACK_CHARACTERS])
    return attached


def threads_of(kind: Kind, text: str) -> str:
    """The tracebacks, among those of all threads, that lead through the kind's handler, or what resumes its jobs."""
    codes = [inspect.unwrap(function).__code__ for function in (kind.handler, *kind.resumes.values())]
    lines = [rf'^  File "{re.escape(code.co_filename)}", line \d+ in {code.co_name}$' for code in codes]
    line = re.compile("|".join(lines), re.MULTILINE)
    return "\n".join(
        thread for thread in re.split(r"\n(?=Thread 0x|Current thread 0x)|\n\n", text) if line.search(thread)
    )


def _own_path() -> Path:
    return path_of(os.getpid(), process_started(os.getpid()) or "")


def _host_number() -> int:
    """Distinguishes containers that share a temporary folder."""
    return zlib.crc32(host().encode())
