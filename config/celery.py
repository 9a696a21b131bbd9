"""Celery: the app, its queues and settings, and the tick. Here and nowhere else."""

import os
import sys
from functools import cached_property
from typing import Any

from celery import Celery, signals
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from config.server_urls import is_redis
from config.settings import ENV, QUEUES, REDIS_TCP, SERVED_QUEUES, SOCKET_TCP

# Django's checks are `manage.py migrate`'s: for them a worker would import every view, serializer and admin page.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

# By its URL's scheme, since a broker of several hosts is found by nothing else.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "orchestrator.worker.redis_transport:Transport"))


class App(Celery):
    """Celery's, but for its Beat."""

    @cached_property
    def Beat(self) -> Any:
        from scheduler.beat import Beat  # It imports models, for which Django is not ready yet when this is imported.

        return self.subclass_with_self(Beat)


app = App("muster")
app.set_default()  # For `current_app` in every thread, not in this one alone.


@signals.setup_logging.connect
def leave_logging_alone(**_: Any) -> None:
    """Django has set it up, by LOGGING. Celery would set the root's level to its own, which silences `job.log`."""


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, str] | None:
    """A task's own queue; Celery's default for tasks that name none."""
    queue = getattr(task, "bell_queue", None)
    return {"queue": queue} if queue else None


# RabbitMQ's arguments for a queue; Redis ignores them. Old bells that nobody receives make room for new ones.
QUEUE_ARGUMENTS: dict[str, Any] = {"x-max-length": 1_000, **({"x-queue-type": "quorum"} if ENV.QUORUM_QUEUES else {})}

app.conf.update(
    broker_url=ENV.BROKER_URL,
    # Work is never in a message: messages are acknowledged early, never retried, and have no result.
    task_acks_late=False,
    task_ignore_result=True,
    result_backend=None,
    task_serializer="json",
    accept_content=["json"],
    # A worker takes a message only when it has a free slot, so no bell waits behind a long job.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=is_redis(ENV.BROKER_URL),
    # Only the bell thread publishes. It fails fast, since the tick rings again.
    task_publish_retry=False,
    broker_connection_timeout=2,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_consumer="orchestrator.worker.consumer:Consumer",
    broker_transport_options={
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        **REDIS_TCP,
        "health_check_interval": 10,
        "global_keyprefix": "muster:",
    }
    if is_redis(ENV.BROKER_URL)
    else {"socket_settings": SOCKET_TCP},
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # Celery would close the connections to the database after every message; CONN_MAX_AGE says when they are renewed.
    CELERY_DB_REUSE_MAX=sys.maxsize,
    task_queues=[Queue(name, queue_arguments=QUEUE_ARGUMENTS) for name in SERVED_QUEUES],
    task_default_queue=next(iter(QUEUES)),
    task_routes=(route,),
    task_create_missing_queues=False,
    worker_send_task_events=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    timezone="UTC",
    enable_utc=True,
    beat_scheduler="scheduler.beat:Scheduler",
    beat_max_loop_interval=5,
    beat_schedule={"tick": {"task": "orchestrator.tick", "schedule": ENV.TICK_SECONDS}},
)

app.autodiscover_tasks()
app.autodiscover_tasks(related_name="jobs")
