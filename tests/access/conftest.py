"""Clients of users with permissions, where tokens are required, and kinds made for one test."""

from tests.api import api, as_user, asks_for_tokens, unthrottled
from tests.orchestrator.workbench import kind

__all__ = ["api", "as_user", "asks_for_tokens", "kind", "unthrottled"]
