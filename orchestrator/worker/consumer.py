"""Celery's consumer of messages, which reconnects after every error of the broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from celery.worker import consumer
from celery.worker.state import maybe_shutdown

from orchestrator.host import process_started
from orchestrator.worker import broker_failures
from orchestrator.worker.redis_transport import ConnectAnew

logger = logging.getLogger(__name__)

# How long it waits before it connects again to a broker that failed.
RETRY_SECONDS = 1.0
# How often it logs a failure that lasts.
REPORT_SECONDS = 30.0


class Consumer(consumer.Consumer):
    """Celery ends the worker's main process for every error that it does not recognize as a lost connection. But a
    broker may return anything, and jobs run without it: here every error leads to a new connection.
    """

    hub: Any
    amqheartbeat: Any
    conninfo: Any
    hostname: str
    pool: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_errors = (Exception,)
        self._reported, self._reported_at = "", 0.0
        self._callbacks_of_link: set[Any] = set()

    def start(self) -> None:
        while self.blueprint.state not in consumer.consumer.STOP_CONDITIONS:  # type: ignore[attr-defined]
            try:
                super().start()
            # Celery failed while it cleaned up after an earlier error.
            except Exception as error:
                self._wait_after(error)
                self.blueprint.restart(self)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._wait_after(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        try:
            super().on_connection_error_after_connected(exc)
        finally:
            self._wait_after(exc)

    def ensure_connected(self, conn: Any) -> Any:
        """As Celery does it, but with pauses that do not grow: the poller finds waiting jobs meanwhile."""
        conn.ensure_connection(
            lambda error, _: self._record(error),
            interval_start=RETRY_SECONDS,
            interval_step=0,
            interval_max=RETRY_SECONDS,
            callback=self._end_if_told_or_childless,
        )
        self.first_connection_attempt = False
        return conn

    def connect(self) -> Any:
        """As Celery does it, but releases a connection that failed before the consumer had it."""
        link = self.connection_for_read(heartbeat=self.amqheartbeat)
        if self.hub:
            self.hub.on_tick -= self._callbacks_of_link
            others = set(self.hub.on_tick)
            try:
                link.transport.register_with_event_loop(link.connection, self.hub)
            except Exception:
                link.release()
                raise
            self._callbacks_of_link = self.hub.on_tick - others
        return link

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """As Celery does it, but rejects a message that it cannot read, so that it is not delivered again."""
        handle = super().create_task_handler(*args, **options)

        def on_task_received(message: Any) -> Any:
            try:
                return handle(message)
            except Exception as error:
                logger.error("A malformed message was dropped: %.200r: %r", message.headers, error)
                message.reject_log_error(logger, self.connection_errors)
                raise ConnectAnew("Celery may have reserved a slot for a malformed message.") from error

        return on_task_received

    def _wait_after(self, error: Exception) -> None:
        self._record(error)
        self._end_if_told_or_childless()
        time.sleep(RETRY_SECONDS)

    def _end_if_told_or_childless(self) -> None:
        """Celery replaces no child until it is connected. Where none is left, nothing would run meanwhile, so this
        process ends, and its supervisor starts all anew.
        """
        maybe_shutdown()
        children = self.pool.info.get("processes", ())  # Of a pool of threads there are none.
        if children and all(process_started(pid) is None for pid in children):
            logger.error("%s has no child left, and without a broker there is no other; it ends.", self.hostname)
            raise WorkerShutdown(EX_FAILURE)

    def _record(self, error: Exception) -> None:
        """Records the failure for the check for a stalled consumer, and logs it now and then."""
        broker_failures.record()
        if repr(error) != self._reported or time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported, self._reported_at = repr(error), time.monotonic()
            logger.error("The broker %s failed; trying again: %r", self.conninfo.as_uri(), error)
