"""The WSGI application that granian serves."""

from collections.abc import Callable, Iterable
from typing import Any

from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest
from django.urls import ResolverMatch, get_resolver
from django.utils.http import parse_header_parameters

from config.start import start


class Request(WSGIRequest):
    """A request whatever its Content-Type says: where that cannot be read it is as if there were none, and its charset
    is the body's. Django reads the query in it too, and fails where it is no charset of a text.
    """

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        try:
            self.content_type, self.content_params = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except ValueError:
            self.content_type, self.content_params = "", {}


class Handler(WSGIHandler):
    request_class = Request

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """What `EitherSlashMiddleware` has found is not looked for again."""
        return request.resolver_match or super().resolve_request(request)


start()
application: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]] = Handler()

# Loads every view now: the first request would take a second longer.
assert get_resolver().url_patterns
