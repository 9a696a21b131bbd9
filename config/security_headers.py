"""The security headers of every response: what a page may load, who may frame it, and that data are not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csp.constants import HEADER, NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.middleware import CSPMiddleware, PolicyParts

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

# Answers of the API, files and everything else that is no page: nothing in them runs or loads anything.
NO_PAGE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PAGE = {
    "default-src": [NONE],
    "script-src": [SELF],
    # Style attributes stand in the templates of all three kinds of page, and their scripts set more.
    "style-src": [SELF, UNSAFE_INLINE],
    "img-src": [SELF, "data:"],
    "font-src": [SELF, "data:"],
    "connect-src": [SELF],
    "base-uri": [NONE],
    "form-action": [NONE],
    "frame-ancestors": [NONE],
}
# By the beginning of their paths.
PAGES = {
    # Unfold's pages say what they do in attributes, which Alpine makes functions of: that is eval to a browser.
    "/admin": PAGE | {"script-src": [SELF, UNSAFE_EVAL], "form-action": [SELF]},
    "/swagger": PAGE,
    # Redoc searches in a worker that it makes itself.
    "/api/docs": PAGE | {"worker-src": ["blob:"]},
}
# The first page, whose path every other begins with.
FIRST_PAGE = "/"
NO_DEVICES = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


class SecurityHeaders(CSPMiddleware):
    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if self._policy_of(request) and response.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Permissions-Policy", NO_DEVICES)
            response.headers.setdefault("Cache-Control", "private, no-store")
            return super().process_response(request, response)
        response.headers.setdefault(HEADER, NO_PAGE)
        # Whatever may be kept says so itself: static files, and what has an ETag.
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        return PolicyParts() if report_only else PolicyParts(config=self._policy_of(request))

    @staticmethod
    def _policy_of(request: HttpRequest) -> dict[str, list[str]] | None:
        if request.path_info == FIRST_PAGE:
            return PAGE
        return next((policy for prefix, policy in PAGES.items() if request.path_info.startswith(prefix)), None)
