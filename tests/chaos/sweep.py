"""A crash at every failpoint there is, one after the other: the failpoints, and a crash at one of them."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from importlib import import_module

import psutil

from orchestrator.failpoints import NAMES
from tests.chaos.world import World
from tests.system.stack import BASE_DIR, until

# The work that is to be done meanwhile reaches every point within so long.
REACHED_SECONDS = 40
# Points that are reached only when a worker has died while it ran a job.
NEED_A_DEATH = {"declaring-dead", "taking-back", "worker-registered"}

BUSY = (
    "SELECT pid FROM orchestrator_job JOIN orchestrator_worker worker ON worker.id = worker_id WHERE queue = 'default'"
)


def every_failpoint(seed: int) -> list[str]:
    """All that any module declares, in an order of chance: no process is killed many times in a row."""
    for app in ("orchestrator", "scheduler", "ingestion"):
        for path in (BASE_DIR / app).rglob("*.py"):
            if "Failpoint(" in path.read_text():
                import_module(".".join(path.relative_to(BASE_DIR).with_suffix("").parts))
    return random.Random(seed).sample(sorted(NAMES), len(NAMES))


def crash_at(name: str, world: World, rng: random.Random) -> dict[str, object]:
    """Whoever comes there first is killed; the ticket that is gone proves that somebody was."""
    began_at = time.monotonic()
    ticket = world.failpoints / name
    ticket.touch()
    try:
        if name in NEED_A_DEATH:
            kill_a_busy_worker(world)
        until(lambda: not ticket.exists(), REACHED_SECONDS)
        until(world.api_answers, REACHED_SECONDS)
    finally:
        ticket.unlink(missing_ok=True)
    return {"reached_seconds": time.monotonic() - began_at}


def kill_a_busy_worker(world: World) -> None:
    [[pid], *_] = until(lambda: world.query(BUSY), REACHED_SECONDS)
    with suppress(psutil.Error):
        psutil.Process(pid).kill()
