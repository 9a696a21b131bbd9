"""A client of the API, as somebody or nobody, and event streams that hurry."""

from tests.api import api, as_user, asks_for_tokens, unthrottled
from tests.event_streams import frequent_looks

__all__ = ["api", "as_user", "asks_for_tokens", "frequent_looks", "unthrottled"]
