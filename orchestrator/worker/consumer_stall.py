"""Restarts an idle worker whose queues have unread messages: Celery's consumer has stalled, though it looks alive."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any
from urllib.parse import urlsplit

from celery import current_app
from django.conf import settings

from orchestrator.worker import broker_failures, deadlines
from orchestrator.worker.process import WorkerProcess

logger = logging.getLogger(__name__)

# How often the broker is asked for unread messages, and how long it has to respond.
CHECK_SECONDS = 5.0
RESPONSE_SECONDS = 2.0

ON_REDIS = urlsplit(settings.ENV.BROKER_URL).scheme in settings.REDIS_SCHEMES


class ConsumerStall:
    """Measures for how long messages stay unread while this process is free and Celery begins no task in it.

    Only checks that find all of this are counted. So a process that was frozen, one whose slots are taken, a broker
    that is down or refuses, and a message that was just sent do not count as a stall.
    """

    def __init__(self, process: WorkerProcess, celery_pid: int) -> None:
        self.stalled_seconds = 0.0
        self.checked_at = time.monotonic()
        self._process = process
        self._celery_pid = celery_pid

    def check(self) -> None:
        since_last = time.monotonic() - self.checked_at
        if since_last < CHECK_SECONDS:
            return
        consumed = self._process.slots.quiet_seconds < since_last
        self.checked_at = time.monotonic()
        if consumed or broker_failures.is_recent() or not self.has_unread():
            self.stalled_seconds = 0.0
        elif self._process.slots.is_free:
            self.stalled_seconds += CHECK_SECONDS
        if self.stalled_seconds >= settings.ENV.CONSUMER_STALL_SECONDS:
            logger.critical("%s is idle although its queues have unread messages; it ends.", self._process.name)
            self.end_worker()

    def reaches_broker(self) -> bool:
        try:
            self.has_unread()
        except Exception:
            return False
        return True

    def has_unread(self) -> bool:
        """Whether messages wait in the queues of this process; raises if the broker does not respond."""
        limits = ("socket_timeout", "socket_connect_timeout") if ON_REDIS else ("read_timeout", "write_timeout")
        options = dict.fromkeys(limits, RESPONSE_SECONDS)
        with current_app.connection_for_read(connect_timeout=RESPONSE_SECONDS, transport_options=options) as link:
            link.ensure_connection(max_retries=1, interval_start=0)
            return any(_messages_in(queue, link) for queue in self._process.lease.queues)

    def end_worker(self) -> None:
        """Ends the whole worker, which its supervisor starts again. It drains; if it cannot, it is killed."""
        os.kill(self._celery_pid, signal.SIGTERM)
        time.sleep(settings.ENV.SHUTDOWN_GRACE_SECONDS + 5 * deadlines.CHECKPOINT_GRACE_SECONDS)
        os.kill(self._celery_pid, signal.SIGKILL)


def _messages_in(queue: str, link: Any) -> int:
    # Passive asks without declaring. With Redis there is nothing to declare, and kombu forgets the key prefix then.
    with link.channel() as channel:
        return int(channel.queue_declare(queue, passive=not ON_REDIS).message_count)
