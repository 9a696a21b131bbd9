"""The admin's site, Unfold's; its pages are imported where they are served or checked, and by no worker."""

import logging
from typing import Any

from django.contrib.admin import autodiscover
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.contrib.messages.middleware import MessageMiddleware
from django.core import checks
from django.core.exceptions import ValidationError
from django.db import DataError
from django.http import HttpRequest, HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.utils.deprecation import MiddlewareMixin
from django.views import defaults

logger = logging.getLogger(__name__)


class AdminConfig(SimpleAdminConfig):
    """Django's own imports every app's admin.py wherever Django is set up. Here `config.urls` does."""

    default_site = "access.logins.Site"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(check_pages, checks.Tags.admin)


def check_pages(**options: Any) -> list[checks.CheckMessage]:
    """Django's checks of the admin, which pass over pages that nobody has imported."""
    autodiscover()
    return check_admin_app(**options)


def is_of_admin(request: HttpRequest) -> bool:
    """Whether the request is for a page of the admin."""
    return request.path_info.startswith("/admin")


class CompressedPages(GZipMiddleware):
    """The admin's pages compressed, which shrinks a list to a tenth. Nothing else: answers of the API are short."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if not is_of_admin(request) or not response.get("Content-Type", "").startswith("text/html"):
            return response
        return super().process_response(request, response)


class Messages(MessageMiddleware):
    """What the admin tells its users on the next page. Nothing else has messages, so nothing else looks for any."""

    def process_request(self, request: HttpRequest) -> None:
        if is_of_admin(request):
            super().process_request(request)


class BadInputMiddleware(MiddlewareMixin):
    """A bad request is one in the admin, too: Django hands ids, years and texts of an address or a form to fields and
    to the database as they are, and what those make of them would be a 500.
    """

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        if not is_of_admin(request):
            return None
        if not isinstance(exception, (ValidationError, ValueError, OverflowError, DataError)):
            return None
        logger.warning("%s %s was refused as bad input", request.method, request.path, exc_info=exception)
        return defaults.bad_request(request, exception)
