"""What a worker process does about bells it does not hear: it looks for work itself, and ends if it has gone deaf."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection

from config.celery import CONTROL_QUEUE, app
from config.settings import is_redis
from orchestrator import engine, upkeep
from orchestrator.kinds import all_kinds
from orchestrator.workers import LAST_CALL_SECONDS, WorkerProcess

logger = logging.getLogger(__name__)

# How often the scout looks, and how long a process must have heard nothing before it does.
LOOK_SECONDS = 1.0
# What has waited longer for a free worker was not rung for, or its bell does not get through.
UNRUNG_SECONDS = 1.0
# How often it looks for bells that lie in the broker, and how long that has to answer.
LISTEN_SECONDS = 5.0
ANSWER_SECONDS = 2.0

ON_REDIS = is_redis(settings.ENV.BROKER_URL)

# The kinds of these queues whose most urgent job has waited too long, the most urgent first: with one slot, a kind
# that always has more to do would keep the others from it.
WAITING_KINDS = """
SELECT kind.name
FROM orchestrator_kind kind
CROSS JOIN LATERAL (
    SELECT updated_at, rank FROM orchestrator_job WHERE ready AND kind = kind.name ORDER BY rank, id LIMIT 1
) head
WHERE kind.queue = ANY(%(queues)s) AND kind.paused_at IS NULL
  AND head.updated_at < clock_timestamp() - %(seconds)s * interval '1 second'
ORDER BY head.rank
"""

# A row if the last tick is that long ago.
LATE_TICK = """
SELECT 1 WHERE NOT EXISTS (
    SELECT FROM orchestrator_upkeep
    WHERE part = 'tick' AND ran_at >= clock_timestamp() - %(seconds)s * interval '1 second'
)
"""


class Scout:
    """A thread beside the heartbeat. It runs nothing itself, and takes no more than the slots that Celery leaves free.

    So it does not matter why no bell is heard: the broker is down, its message was lost, Beat or the main process of
    the pool hangs. A message that comes meanwhile waits for a slot, as in any full house.
    """

    def __init__(self, process: WorkerProcess, celery_pid: int) -> None:
        self._process = process
        self._celery_pid = celery_pid
        self._listened_at = time.monotonic()
        self._unheard_seconds = 0.0
        self._answering: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._serve, name="scout", daemon=True)

    def start(self) -> Scout:
        self._thread.start()
        return self

    def join(self) -> None:
        """Waits for what it started to end; the process must be draining."""
        deadline = time.monotonic() + settings.ENV.SHUTDOWN_GRACE_SECONDS + 2 * LAST_CALL_SECONDS
        for thread in self._answering:
            thread.join(max(0, deadline - time.monotonic()))

    def _serve(self) -> None:
        while not self._process.draining.wait(LOOK_SECONDS):
            for part in (self._take_unrung, self._listen):
                try:
                    part()
                # The database or the broker is away. The heartbeat and Celery tell of it.
                except Exception as error:
                    logger.debug("The scout of %s did not get far: %s", self._process.name, error)

    def _take_unrung(self) -> None:
        """Starts at most one answer a look to each bell that should have rung: more work brings more, look by look."""
        if self._process.registered.is_set() and self._process.quiet_seconds >= UNRUNG_SECONDS:
            for answer in self._unrung():
                self._start(answer)

    def _unrung(self) -> list[Callable[[], object]]:
        known = {kind.name: kind for kind in all_kinds()}
        found: list[Callable[[], object]] = [
            partial(engine.run_ready, known[name], self._process, celery_task_id="")
            for [name] in self._process.read_aside(WAITING_KINDS, self._limits(UNRUNG_SECONDS))
            if name in known
        ]
        if CONTROL_QUEUE in self._process.queues and self._process.read_aside(
            LATE_TICK, self._limits(UNRUNG_SECONDS + settings.ENV.TICK_SECONDS)
        ):
            found.append(upkeep.tick)
        return found

    def _start(self, answer: Callable[[], object]) -> None:
        """Runs it in a thread of its own, unless every slot is taken."""
        if self._process.slots.acquire(blocking=False):
            thread = threading.Thread(target=self._run, args=(answer,), name="unrung", daemon=True)
            thread.start()
            self._answering = {each for each in self._answering if each.is_alive()} | {thread}

    def _run(self, answer: Callable[[], object]) -> None:
        try:
            answer()
        except Exception:
            logger.exception("What was not rung for failed; it is tried again.")
        finally:
            self._process.slots.release()
            connection.close()

    def _listen(self) -> None:
        """Ends the worker if bells lie in the broker for long, while this process is free and hears none.

        Only looks at which all of this is so are counted. So a process that was frozen, a full house, a broker that is
        away and a bell that was just rung are not taken for deafness.
        """
        since_last = time.monotonic() - self._listened_at
        if since_last < LISTEN_SECONDS:
            return
        heard = self._process.quiet_seconds < since_last
        self._listened_at = time.monotonic()
        if heard or not self._bells_lie():
            self._unheard_seconds = 0.0
        elif self._has_free_slot():
            self._unheard_seconds += LISTEN_SECONDS
        if self._unheard_seconds >= settings.ENV.DEAF_SECONDS:
            self._end_worker()

    def _has_free_slot(self) -> bool:
        if free := self._process.slots.acquire(blocking=False):
            self._process.slots.release()
        return free and self._process.has_room

    def _bells_lie(self) -> bool:
        """Whether messages wait in the queues of this process; raises if the broker does not answer."""
        limits = ("socket_timeout", "socket_connect_timeout") if ON_REDIS else ("read_timeout", "write_timeout")
        options = dict.fromkeys(limits, ANSWER_SECONDS)
        with app.connection_for_read(connect_timeout=ANSWER_SECONDS, transport_options=options) as link:
            link.ensure_connection(max_retries=1, interval_start=0)
            return any(_messages_in(queue, link) for queue in self._process.queues)

    def _limits(self, seconds: float) -> dict[str, Any]:
        return {"queues": self._process.queues, "seconds": seconds}

    def _end_worker(self) -> None:
        """Whoever supervises the worker starts it again. It drains; if it cannot, it is killed."""
        logger.critical("%s hears no bell although bells lie in its queues; it ends.", self._process.name)
        os.kill(self._celery_pid, signal.SIGTERM)
        time.sleep(settings.ENV.SHUTDOWN_GRACE_SECONDS + 5 * LAST_CALL_SECONDS)
        os.kill(self._celery_pid, signal.SIGKILL)


def _messages_in(queue: str, link: Any) -> int:
    # Passive asks without declaring. With Redis there is nothing to declare, and kombu forgets the key prefix then.
    with link.channel() as channel:
        return int(channel.queue_declare(queue, passive=not ON_REDIS).message_count)
