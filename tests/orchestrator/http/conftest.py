"""A client of the API, as somebody or nobody."""

from tests.api import api, as_user, asks_for_tokens, unthrottled

__all__ = ["api", "as_user", "asks_for_tokens", "unthrottled"]
