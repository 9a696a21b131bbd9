"""The way to Celery: rings a kind's bell, so that a worker asks PostgreSQL for work."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Task
from django.core.cache import cache
from django.db import transaction

if TYPE_CHECKING:
    from orchestrator.kinds import Kind

logger = logging.getLogger(__name__)

# How long an unanswered bell keeps others of its name from being sent. If its message was lost, the tick's next one
# goes through after this.
UNANSWERED_SECONDS = 5
# How long the ringer rests where all that it was asked for lay unanswered already: many commits can share a look.
MERGE_SECONDS = 0.01


class Doorbell(Task[Any, Any]):
    """A Celery task whose message says only "there may be work". While one lies unanswered no second one is sent."""

    abstract = True
    answered_in: str  # The queue whose workers answer it; config.celery routes by it.

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Sends the message and answers Celery's result, or None where one lies unanswered already.

        A connection of the pool is made anew once it has failed. That of the producer which Beat gives is not: after a
        restart of RabbitMQ no tick would ever be sent again.
        """
        options.pop("producer", None)
        if not _may_ring(self.name):
            return None
        try:
            return super().apply_async(*args, **options)
        except Exception:
            # An error does not prove that nothing was sent, but a second message does no harm.
            mark_answered(self.name)
            raise


def ring_after_commit(*kinds: Kind) -> None:
    """Rings for each kind once the current transaction commits, or now if there is none."""
    for kind in kinds:
        transaction.on_commit(partial(ring, kind))


def ring(kind: Kind) -> None:
    """Asks the ringer to wake a worker for the kind. Returns at once; never raises, never waits for the broker."""
    _ringer().ask(kind.task)


def mark_answered(name: str) -> None:
    """Lets the next bell of that name through. Called before claiming, so that no committed job is overlooked:
    whoever commits after this rings anew, and what was committed before is seen by the claim.
    """
    try:
        cache.delete(_flag(name))
    except Exception as error:
        logger.warning("The bell %s could not be marked as answered: %s", name, error)


class Ringer:
    """The thread that publishes. Bells asked for while it is busy merge: one message of a name is enough."""

    def __init__(self) -> None:
        self._wanted: dict[str, Doorbell] = {}
        self._publishing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, name="ringer", daemon=True).start()

    def ask(self, task: Doorbell) -> None:
        with self._changed:
            self._wanted[task.name] = task
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
                wanted, self._wanted = self._wanted, {}
                self._publishing = True
            sent = [self._publish(task) for task in wanted.values()]
            if not any(sent):
                time.sleep(MERGE_SECONDS)

    def _publish(self, task: Doorbell) -> bool:
        """Whether a message was sent."""
        try:
            return task.apply_async() is not None
        except Exception as error:
            logger.warning("The bell %s was not rung, the next tick will: %s", task.name, error)
            return False


def _may_ring(name: str) -> bool:
    """False while a message of the name lies unanswered. Without a cache every bell is rung."""
    try:
        return bool(cache.add(_flag(name), 1, UNANSWERED_SECONDS))
    except Exception:
        return True


def _flag(name: str) -> str:
    return f"bell:{name}"


_lock = threading.Lock()
_current: Ringer | None = None


def _ringer() -> Ringer:
    global _current
    with _lock:
        if _current is None:
            _current = Ringer()
        return _current


def _forget_ringer() -> None:
    """A forked child has neither the parent's thread nor anyone who would release a lock it held just then."""
    global _lock, _current
    _lock, _current = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_ringer)
