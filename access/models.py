"""Accounts, which own work for ever; what is known of tokens beside knox's own row; and who changed what."""

from typing import ClassVar

from django.contrib.auth.models import User
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.db.models.functions import Now
from knox.models import AuthToken


class Account(models.Model):
    """What stands in every `owner` column, and whose it is.

    Triggers keep it: each user has one from the moment they are inserted, it never becomes another's, and it is
    never deleted. It is the username that the user was created with or, where that was another's before, the username
    with ~ and the user's id. See decision 22.
    """

    owner = models.CharField(primary_key=True, max_length=150)
    user = models.OneToOneField(
        User, null=True, on_delete=models.SET_NULL, related_name="account", help_text="None once the user is deleted."
    )
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.owner


class TokenDetails(models.Model):
    """A token's name and last use. One that nobody named has no row before its first use."""

    token = models.OneToOneField(AuthToken, primary_key=True, on_delete=models.CASCADE, related_name="details")
    name = models.CharField(max_length=100, blank=True, db_default="", default="")
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "token details"

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """One change, and who made it. Triggers refuse to change an entry, and to delete it before its time."""

    class Via(models.TextChoices):
        API = "api", "the API"
        ADMIN = "admin", "the admin"
        COMMAND = "command", "the command line"
        SYSTEM = "system", "Muster itself"

    at = models.DateTimeField(db_default=Now())
    actor = models.CharField(
        max_length=150,
        blank=True,
        help_text="The username, or on the command line the system's user; empty: anonymous.",
    )
    token = models.CharField(max_length=25, blank=True, help_text="The token's first characters, if there was one.")
    address = models.GenericIPAddressField(null=True, help_text="Of the connection.")
    via = models.CharField(max_length=7, choices=Via.choices)
    action = models.CharField(max_length=50, help_text="What was changed, and how: job.cancel.")
    object_id = models.CharField(max_length=150, blank=True)
    object_name = models.CharField(max_length=200, blank=True)
    before = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    after = models.JSONField(null=True, encoder=DjangoJSONEncoder)
    keep_until = models.DateTimeField(null=True, help_text="It is kept at least until then; None: forever.")

    class Meta:
        verbose_name_plural = "audit entries"
        default_permissions = ("view",)
        indexes: ClassVar = [
            # Serve: the trail, newest first, of someone, of a kind of change, and of an object.
            models.Index(name="audit_by_actor", fields=["actor", "-id"]),
            models.Index(name="audit_by_action", fields=["action", "-id"]),
            models.Index(name="audit_by_object", fields=["object_id", "-id"]),
            # Serves: what happened since some time.
            models.Index(name="audit_by_time", fields=["at"]),
            # Serves: pruning.
            models.Index(name="audit_by_end", fields=["keep_until"]),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.object_name or self.object_id}"
