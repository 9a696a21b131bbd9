"""The way to Celery: rings a kind's bell, so that a worker asks PostgreSQL for work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Task, current_app
from django.core.cache import cache
from django.db import transaction

from orchestrator.per_process import PerProcess

logger = logging.getLogger(__name__)

# How long an outstanding bell keeps others of its name from being sent. If its message was lost, the tick's next one
# goes through after this.
OUTSTANDING_SECONDS = 5
# What fails within that time is tried once more.
AT_ONCE_SECONDS = 0.1
# How long the ringer rests when all that it was asked for was outstanding already: many commits can share a look.
MERGE_SECONDS = 0.01


# Whether the thread that rings for a kind looks for jobs of it next; None where no jobs run.
takes_bell: Callable[[str], bool] | None = None


class Doorbell(Task[Any, Any]):
    """A Celery task whose message says only "there may be work". While one is outstanding no second one is sent."""

    abstract = True
    send_events = False  # Flower shows jobs, not bells.
    bell_queue: str  # The queue it is sent to; config.celery routes by it.

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Sends the message and returns Celery's result, or None where one is outstanding already.

        Over a connection of the pool, whoever brings another: it is made anew once it has failed.
        """
        if not may_ring(self.name):
            return None
        try:
            with self.app.producer_or_acquire() as producer:
                try:
                    return super().apply_async(*args, **options | {"producer": producer})
                except Exception:
                    # Celery would keep it, with a channel that the broker closed when it refused a message.
                    producer.connection.collect()
                    raise
        except Exception:
            # An error does not prove that nothing was sent, but a second message does no harm.
            mark_received(self.name)
            raise


def ring_after_commit(*kinds: str) -> None:
    """Rings for the kinds of those names once the current transaction commits, or now if there is none. Not for those
    that this thread looks for next itself.
    """
    for kind in kinds:
        transaction.on_commit(partial(_ring_unless_taken, kind))


def _ring_unless_taken(kind: str) -> None:
    if not (takes_bell and takes_bell(kind)):
        ring(kind)


def ring(kind: str) -> None:
    """Asks the ringer to wake a worker for the kind of that name. Returns at once; never raises, never waits for the
    broker. A kind that this process does not know, as during an upgrade, is left to the ticks of those that do.
    """
    _ringer().ask(kind)


def wait_until_rung(timeout_seconds: float) -> bool:
    """True once all that this process asked for is published, or left to the ticks."""
    return _ringer().wait_until_idle(timeout_seconds)


def mark_received(name: str) -> None:
    """Lets the next bell of that name through. Called before claiming, so that no committed job is overlooked:
    a later commit rings again, and what was committed before is seen by the claim.
    """
    for tries_left in (1, 0):
        began_at = time.monotonic()
        try:
            cache.delete(_flag(name))
            return
        except Exception as error:
            # A connection that the broker has closed fails once, and is made anew by the next use.
            if not tries_left or time.monotonic() - began_at > AT_ONCE_SECONDS:
                logger.warning("The bell %s could not be marked as received: %s", name, error)
                return


class Ringer:
    """The thread that publishes. Bells asked for while it is busy merge: one message of a name is enough."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()
        self._publishing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, name="ringer", daemon=True).start()

    def ask(self, name: str) -> None:
        with self._changed:
            self._wanted.add(name)
            self._changed.notify_all()

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """True once nothing is left to publish."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._wanted or self._publishing), timeout_seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._publishing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._wanted))
                wanted, self._wanted = self._wanted, set()
                self._publishing = True
            sent = [self._publish(name) for name in wanted]
            if not any(sent):
                time.sleep(MERGE_SECONDS)

    def _publish(self, name: str) -> bool:
        """Whether a message was sent."""
        try:
            task = current_app.tasks.get(name)
            return task is not None and task.apply_async() is not None
        except Exception as error:
            logger.warning("The bell %s was not rung; the next tick will ring it: %s", name, error)
            return False


def may_ring(name: str) -> bool:
    """False while a message of the name is outstanding. Without a cache every bell is rung."""
    try:
        return bool(cache.add(_flag(name), 1, OUTSTANDING_SECONDS))
    except Exception:
        return True


def _flag(name: str) -> str:
    return f"bell:{name}"


_ringer = PerProcess(lambda: Ringer())
