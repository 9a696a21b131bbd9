"""Redis as a broker: Kombu's transport, which treats every error of the broker as a lost connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.exceptions import KombuError
from kombu.transport import redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


class ConnectAnew(KombuError):
    """Replaces the connection, since a message was only half processed."""


class Channel(redis.Channel):
    """Drops what is not a message: it has already been removed from its queue."""

    def _brpop_read(self, **options: Any) -> Any:
        return _read_message(super()._brpop_read, self.client, options)  # type: ignore[misc]

    def _receive(self) -> Any:
        return _read_message(super()._receive, self.subclient, {})  # type: ignore[misc]


def _read_message(read: Callable[..., Any], client: Any, options: dict[str, Any]) -> Any:
    try:
        return read(**options)
    except (RedisError, OSError, KombuError, Empty):
        raise
    except Exception as error:
        logger.error("The broker holds something that is not a message; it was dropped: %r", error)
        # A reply that was cut short would be read as the start of the next one.
        client.connection.disconnect()
        raise Empty from None


class Transport(redis.Transport):
    """Connects again to a broker that refuses (READONLY, WRONGTYPE, OOM, …), as to one that cannot be reached."""

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, RedisError)
