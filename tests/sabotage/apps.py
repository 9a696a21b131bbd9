"""The guards that can be taken away, each while a file of its name lies in the folder that SABOTAGE names."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

from django.apps import AppConfig

from tests.kinds import outside

# A commit may take so long; a bell that is rung before it is answered before it.
SLOW_COMMIT_SECONDS = 0.5
# What a process tells whose watchdog will not end it.
UNWATCHED = "unwatched"
# Instead of the function that looks at the status and the attempt.
COMPLETE_ANYWAY = """;
UPDATE orchestrator_job
SET status = 'COMPLETED', result = %(result)s, error = '', worker_id = NULL, deadline_at = NULL,
    finished_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE id = %(id)s
"""


class SabotageConfig(AppConfig):
    name = "tests.sabotage"

    def ready(self) -> None:
        if folder := os.environ.get("SABOTAGE"):
            take_guards(Path(folder))


def take_guards(folder: Path) -> None:
    """Puts a switch before each guard. Without its file each function is as it was."""
    from orchestrator.queue import bell, transitions
    from orchestrator.queue.transitions import completing
    from orchestrator.upkeep import tick
    from orchestrator.worker import poller

    transitions.complete = switched(folder / "no_attempt_guard", transitions.complete, unguarded(completing))
    unrung = switched(folder / "no_poller", poller.Poller.unrung, lambda self: [])
    poller.Poller.unrung = unrung  # type: ignore[method-assign]
    tick.run_parts = switched(folder / "no_tick", tick.run_parts, lambda: None)
    bell.ring_after_commit = switched(folder / "bell_before_commit", bell.ring_after_commit, ring_before_commit)
    set_timer, cancel_timer = faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later
    faulthandler.dump_traceback_later = switched(folder / "no_watchdog", set_timer, stops(cancel_timer))


def switched(switch: Path, function: Callable[..., Any], sabotaged: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (sabotaged if switch.exists() else function)(*args, **kwargs)

    return either


def unguarded(completing: Any) -> Callable[..., Any]:
    """The function that completes a job, whoever has it by now, and however often it was completed."""
    assert "%(attempt)s" in completing.COMPLETE
    return FunctionType(completing.complete.__code__, vars(completing) | {"COMPLETE": COMPLETE_ANYWAY})


def stops(cancel_timer: Callable[[], None]) -> Callable[..., None]:
    """Tells so, since the timer of a process may run on for a second after this guard is taken away."""

    def stop_timer(*args: object, **options: object) -> None:
        cancel_timer()
        outside.tell(UNWATCHED, "")

    return stop_timer


def ring_before_commit(*kinds: str) -> None:
    from orchestrator.queue import bell

    for kind in kinds:
        bell.ring(kind)
    time.sleep(SLOW_COMMIT_SECONDS)
