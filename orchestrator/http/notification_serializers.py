"""Notifications and their deliveries as the API takes and shows them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.http.examples import A_DELIVERY, A_NOTIFICATION
from orchestrator.http.fields import (
    LinkField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictMultipleChoiceField,
    StrictSerializer,
    StrictUUIDField,
)
from orchestrator.http.links import link
from orchestrator.models import Delivery, Notification
from orchestrator.models.notifications import MAX_DIGEST_SECONDS
from orchestrator.notifications.addresses import MAX_URL_CHARACTERS
from orchestrator.notifications.services import shown_target
from orchestrator.states import FINAL

SIGNING_HELP = (
    "Verifies the webhook's messages (https://www.standardwebhooks.com/). Keep it: it is not shown again. Empty for "
    "mail and Slack, whose messages are not signed."
)


@extend_schema_field(
    {
        "type": "array",
        "items": {"type": "string", "enum": [str(status) for status in FINAL]},
        "minItems": 1,
    }
)
class StatusesField(serializers.ListField):
    """Final states; one that comes again counts once."""

    child = StrictChoiceField(choices=[(status, status) for status in FINAL])

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class ChangedNotification(StrictSerializer):
    """What can be changed of a notification."""

    name = StrictCharField(max_length=100, help_text="A name for people.")
    target = StrictCharField(
        max_length=MAX_URL_CHARACTERS,
        help_text="Of a webhook and of Slack: its https:// URL. Of mail: up to 10 addresses, separated by commas.",
    )
    kind = StrictCharField(
        required=False, allow_blank=True, max_length=100, help_text="Only jobs of this kind; empty: of any."
    )
    statuses = StatusesField(
        required=False, min_length=1, help_text="The ends that it is about; all three if not given."
    )
    automatic = StrictBooleanField(
        required=False,
        help_text="true, the default: for every job that matches. false: only for jobs that name it in `notify`.",
    )
    children = StrictBooleanField(required=False, help_text="Also for the children of pipelines; by default not.")
    digest_seconds = StrictIntegerField(
        required=False,
        min_value=0,
        max_value=MAX_DIGEST_SECONDS,
        help_text="At most one message in this time, about all jobs that ended meanwhile. 0, the default of webhooks: "
        "one for each job. By default 60 for mail and Slack.",
    )
    enabled = StrictBooleanField(required=False, help_text="false: nothing is sent.")


class NewNotification(ChangedNotification):
    """Who is to be told of the ends of which jobs, and how."""

    via = StrictChoiceField(choices=Notification.Via.choices)
    owner = StrictCharField(
        required=False,
        allow_blank=True,
        max_length=150,
        help_text="Whose jobs it is about: by default yours. Empty: everyone's. For others than yourself it requires "
        "the permissions `orchestrator.add_notification` and `orchestrator.view_job`.",
    )


@extend_schema_serializer(component_name="NotificationLinks")
class NotificationLinksSerializer(serializers.Serializer[Any]):
    self = LinkField(read_only=True, help_text="GET, PATCH, DELETE.")
    deliveries = LinkField(read_only=True, help_text="GET.")
    test = LinkField(read_only=True, help_text="POST.")


@extend_schema_serializer(
    component_name="Notification", examples=[OpenApiExample("A webhook", A_NOTIFICATION, response_only=True)]
)
class NotificationSerializer(serializers.ModelSerializer[Notification]):
    """Who is told of the ends of which jobs, and how. Its secret is never shown again."""

    target = serializers.SerializerMethodField(
        help_text="Without what lets others send there: the query of a webhook's URL, and the path of Slack's."
    )
    statuses = serializers.ListField(child=serializers.ChoiceField(choices=[(status, status) for status in FINAL]))
    links = serializers.SerializerMethodField()

    class Meta:
        model = Notification
        fields: tuple[str, ...] = (
            "id", "name", "owner", "via", "target", "kind", "statuses", "automatic", "children", "digest_seconds",
            "enabled", "disabled_reason", "created_at", "changed_at", "links",
        )  # fmt: skip

    def get_target(self, notification: Notification) -> str:
        return shown_target(notification)

    @extend_schema_field(NotificationLinksSerializer)
    def get_links(self, notification: Notification) -> dict[str, str]:
        return {
            "self": link("notification", notification.id),
            "deliveries": link("deliveries", notification.id),
            "test": link("notification-test", notification.id),
        }


class SecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text=SIGNING_HELP)


@extend_schema_serializer(component_name="CreatedNotification")
class CreatedSerializer(NotificationSerializer):
    """A new notification with its secret."""

    secret = serializers.CharField(help_text=SIGNING_HELP)

    class Meta(NotificationSerializer.Meta):
        fields = (*NotificationSerializer.Meta.fields, "secret")


class DeliveryFilters(StrictSerializer):
    state = StrictMultipleChoiceField(
        choices=Delivery.State.choices, required=False, help_text="Any of these; may be repeated."
    )
    job = StrictUUIDField(required=False, help_text="Messages about this job.")


@extend_schema_serializer(
    component_name="Delivery", examples=[OpenApiExample("Delivered", A_DELIVERY, response_only=True)]
)
class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    """A message about the end of a job, and what became of it."""

    message_id = serializers.SerializerMethodField(
        help_text="The header webhook-id, the same for each attempt at it. A digest has its own."
    )
    job = serializers.UUIDField(source="job_id", allow_null=True, help_text="Null for a test message.")
    job_kind = serializers.CharField(source="kind")

    class Meta:
        model = Delivery
        fields = (
            "id", "message_id", "job", "job_kind", "type", "state", "attempts", "response_status", "response", "error",
            "created_at", "delivered_at",
        )  # fmt: skip

    def get_message_id(self, delivery: Delivery) -> str:
        return f"msg_{delivery.message_id.hex}"
