"""Errors that Sentry is sent: each job that failed for good, once, and what fails in Muster itself.

Imported from sentry-sdk only where SENTRY_DSN is set.
"""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

# How long a process that ends waits for its last errors to be sent.
STOP_SECONDS = 2.0
# Of what a line in the log says besides, what errors can be searched by.
TAGS = ("job_id", "kind", "attempt", "outcome")


def start(**options: Any) -> None:
    """Has errors in this process's log sent to Sentry, if SENTRY_DSN is set. options: sentry_sdk.init's."""
    if not settings.ENV.SENTRY_DSN:
        return
    # Not above, since it need not be installed.
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.utils import BadDsn

    try:
        _init(sentry_sdk, DjangoIntegration, **options)
    except BadDsn as error:
        raise ImproperlyConfigured(f"SENTRY_DSN is not valid: {error}.") from None


def _init(sentry_sdk: Any, django_integration: Any, **options: Any) -> None:
    sentry_sdk.init(
        dsn=settings.ENV.SENTRY_DSN,
        before_send=_tagged,
        # No others that it finds by itself: of Celery's messages no error comes, and jobs are nobody's breadcrumbs.
        auto_enabling_integrations=False,
        integrations=[django_integration(middleware_spans=False, signals_spans=False)],
        max_breadcrumbs=0,
        # Payloads and bodies may hold what not everybody who reads errors may see.
        include_local_variables=False,
        max_request_body_size="never",
        **options,
    )


def flush() -> None:
    """Sends the remaining errors of a process that ends."""
    if settings.ENV.SENTRY_DSN and "sentry_sdk" in sys.modules:
        import sentry_sdk

        sentry_sdk.flush(STOP_SECONDS)


def _tagged(event: Any, hint: Any) -> Any:
    extra = event.get("extra") or {}
    found = {name: str(extra[name]) for name in TAGS if extra.get(name) not in (None, "")}
    event["tags"] = {**dict(event.get("tags") or {}), **found}
    return event
