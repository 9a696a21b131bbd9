"""How long handlers in this process may run, and the line at which one is when it does not end in time."""

from __future__ import annotations

import inspect
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    from orchestrator.kinds import Kind


# With the number of its line.
Frame = tuple[FrameType, int]


class RunningHandler:
    """A handler that runs, or those of a batch, in the thread that created this object or started its clock.

    Its time is measured by this process's monotonic clock, since the database's clock may be set meanwhile.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        # What is called: the handler, or what goes on in its place.
        self.function = kind.handler
        self.time_limit: timedelta | None = kind.timeout
        # False before its turn comes, and once it has ended.
        self.is_at_work = True
        self.clock_begins()

    def clock_begins(self) -> None:
        """The handler begins, in the thread that calls this."""
        self.is_at_work = True
        self._thread_id = threading.get_ident()
        self.began_at = time.monotonic()

    @property
    def wall_clock_began_at(self) -> float:
        """As seconds since 1970."""
        return time.time() - (time.monotonic() - self.began_at)

    @property
    def overtime_seconds(self) -> float:
        """How long it has run past its deadline; negative before that."""
        if self.time_limit is None or not self.is_at_work:
            return -math.inf
        return time.monotonic() - self.began_at - self.time_limit.total_seconds()

    @property
    def culprit(self) -> RunningHandler:
        """Whose fault it is if this one does not end."""
        return self

    @property
    def verdict(self) -> str:
        """The error of an attempt that was ended by force."""
        grace = settings.ENV.HARD_TIMEOUT_GRACE_SECONDS
        return f"It took longer than {self.kind.timeout}, and had not ended {grace:g} s later; its process was ended."

    def waits_at(self) -> str:
        """The line of the handler, or of the innermost function in its file, at which it is now."""
        for frame, line in self.frames():
            if frame.f_code.co_filename == code_of(self.function).co_filename:
                return f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
        return "no longer in its handler"

    def traceback(self) -> str:
        """Where the handler is now, from its own first line on; empty if it has ended."""
        frames = self.frames()
        lines = traceback.StackSummary.extract(reversed(frames)).format()
        return "".join(["Traceback (most recent call last):\n", *lines]) if frames else ""

    def frames(self) -> list[Frame]:
        """Where it is now, from the innermost frame out to the handler."""
        found = []
        innermost = sys._current_frames().get(self._thread_id)
        for frame, line in traceback.walk_stack(innermost) if innermost else ():
            found.append((frame, line))
            if frame.f_code is code_of(self.function):
                break
        return found


class InFlightBatch(RunningHandler):
    """Transactional jobs that run in one transaction: their earlier attempts, and the process id of its backend."""

    def __init__(self, kind: Kind, attempts: Mapping[str, int], backend_pid: int) -> None:
        super().__init__(kind)
        self.attempts = dict(attempts)
        self.backend_pid = backend_pid

    def __str__(self) -> str:
        return f"{len(self.attempts)} jobs of kind {self.kind.name}"


def stack_of(thread: threading.Thread, max_frames: int | None = None) -> str:
    """Where a thread is now, in so many of its innermost frames; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame, max_frames)) if frame else ""


def code_of(function: Callable[..., Any]) -> CodeType:
    """By which the frames of a handler are found."""
    code: CodeType = inspect.unwrap(function).__code__
    return code
