"""The access app: who owns work, who may do what, and by which token."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccessConfig(AppConfig):
    name = "access"

    def ready(self) -> None:
        """Django makes permissions once all has been migrated, so the groups that hold some are made then, too."""
        from access import signals
        from access.groups import create_groups

        signals.connect()
        post_migrate.connect(create_groups, sender=self, dispatch_uid="access.create_groups")
