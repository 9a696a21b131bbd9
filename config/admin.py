"""The admin's site, Unfold's; its pages are imported where they are served or checked, and by no worker."""

from typing import Any

from django.contrib.admin import autodiscover
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks


class AdminConfig(SimpleAdminConfig):
    """Django's own imports every app's admin.py wherever Django is set up. Here `config.urls` does."""

    default_site = "unfold.sites.UnfoldAdminSite"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(check_pages, checks.Tags.admin)


def check_pages(**options: Any) -> list[checks.CheckMessage]:
    """Django's checks of the admin, which pass over pages that nobody has imported."""
    autodiscover()
    return check_admin_app(**options)
