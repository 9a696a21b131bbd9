"""Notifications: who is told of the ends of jobs. Each endpoint translates a request and makes one call."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.fields import Field, UUIDField
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import NotPermitted, may, owner_named, owner_of, require_granted, require_visible, visible
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields, QueryIntegerField
from orchestrator.http.idempotency import idempotent
from orchestrator.http.links import link, location
from orchestrator.http.notification_serializers import (
    ChangedNotification,
    CreatedSerializer,
    DeliveryFilters,
    DeliverySerializer,
    NewNotification,
    NotificationSerializer,
    SecretSerializer,
)
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION_OF_NEW, example, problems
from orchestrator.http.pagination import LastNumberFirst, NewestFirst
from orchestrator.http.requests import BadInput, read_body, read_id, read_path, read_query
from orchestrator.kind_problems import Problem
from orchestrator.models import Delivery, Notification
from orchestrator.notifications import services

NOTIFICATION_ID = openapi.path_parameter("notification_id", "The notification's id, a UUID.", format="uuid")
DELIVERY_ID = openapi.path_parameter("delivery_id", "The delivery's id.", pattern="^[0-9]{1,18}$")
PARTS: dict[str, Field[Any, Any, Any, Any]] = {
    "notification_id": UUIDField(),
    "delivery_id": QueryIntegerField(min_value=0),
}

# What lets a user be told of others' jobs, and send mail to others than themselves.
ADD, VIEW_JOBS = "orchestrator.add_notification", "orchestrator.view_job"


class NotificationsView(APIView):
    pagination_class = NewestFirst

    @extend_schema(
        operation_id="create_notification",
        tags=["notifications"],
        summary="Be told when jobs end",
        description="By a webhook (signed by https://www.standardwebhooks.com/), by Slack's form of it, or by mail. "
        "The secret of a webhook is in this response alone. It is about jobs that start from now on, and about those "
        "that run for another two seconds. Without the permission `orchestrator.add_notification` mail goes to your "
        "own address only.",
        parameters=[LOCATION_OF_NEW],
        request=NewNotification,
        responses={201: CreatedSerializer, **problems(413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_NOTIFICATIONS.items()]
        + [example(201, "Created", examples.A_NOTIFICATION | examples.A_SECRET)],
    )
    def post(self, request: Request) -> Response:
        asked = read_body(NewNotification, request)
        via = Notification.Via(asked["via"])
        asked.setdefault("digest_seconds", services.DEFAULT_DIGEST_SECONDS[via])
        notification = Notification(**asked | {"owner": _owner(request, asked.get("owner"))})
        _check_addresses(request, notification)
        services.create(notification)
        headers = location(request, link("notification", notification.id))
        return Response(CreatedSerializer(notification).data, status=201, headers=headers)

    @extend_schema(
        operation_id="list_notifications",
        tags=["notifications"],
        summary="List notifications, newest first",
        responses={(200, "application/json"): NotificationSerializer(many=True), **problems()},
    )
    def get(self, request: Request) -> Response:
        rows = visible(Notification.objects.all(), request.user)
        return NewestFirst().respond(rows, request, NotificationSerializer)


class NotificationView(APIView):
    @extend_schema(
        operation_id="notification",
        tags=["notifications"],
        summary="Get a notification",
        parameters=[NOTIFICATION_ID],
        responses={200: NotificationSerializer, **problems(404)},
    )
    def get(self, request: Request, notification_id: str) -> Response:
        return Response(NotificationSerializer(_visible(request, notification_id)).data)

    @extend_schema(
        operation_id="change_notification",
        tags=["notifications"],
        summary="Change fields of a notification",
        description="Omitted fields stay as they were. Whose jobs it is about, and by what it is sent, stays.",
        parameters=[NOTIFICATION_ID],
        request=ChangedNotification,
        responses={200: NotificationSerializer, **problems(404, 413, 415)},
        examples=[example(None, "Only failures", {"statuses": ["FAILED"]}), example(None, "Off", {"enabled": False})],
    )
    def patch(self, request: Request, notification_id: str) -> Response:
        notification = _visible(request, notification_id, to="orchestrator.change_notification")
        changes = read_body(ChangedNotification, request, partial=True)
        if "target" in changes:
            notification.target = changes["target"]
            _check_addresses(request, notification)
        return Response(NotificationSerializer(services.change(notification.id, changes)).data)

    @extend_schema(
        operation_id="delete_notification",
        tags=["notifications"],
        summary="Delete a notification",
        description="What was not sent yet is not sent any more.",
        parameters=[NOTIFICATION_ID],
        responses={204: OpenApiResponse(description="Deleted."), **problems(404)},
    )
    def delete(self, request: Request, notification_id: str) -> Response:
        services.delete(_visible(request, notification_id, to="orchestrator.delete_notification").id)
        return Response(status=204)


class NotificationTestView(APIView):
    @extend_schema(
        operation_id="test_notification",
        tags=["notifications"],
        summary="Send a test message",
        description="It is sent as others are, with the type `test`; its delivery says what became of it.",
        parameters=[NOTIFICATION_ID, IDEMPOTENCY_KEY],
        request=NoFields,
        responses={202: DeliverySerializer, **problems(404, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, notification_id: str) -> Response:
        read_body(NoFields, request)
        notification = _visible(request, notification_id, to="orchestrator.change_notification")
        return Response(DeliverySerializer(services.send_test(notification.id)).data, status=202)


class SecretView(APIView):
    @extend_schema(
        operation_id="renew_secret",
        tags=["notifications"],
        summary="Make a new secret",
        description="For 24 hours messages are signed with the old one, too.",
        parameters=[NOTIFICATION_ID],
        request=NoFields,
        responses={200: SecretSerializer, **problems(404, 413, 415)},
        examples=[example(200, "Renewed", examples.A_SECRET)],
    )
    def post(self, request: Request, notification_id: str) -> Response:
        read_body(NoFields, request)
        notification = _visible(request, notification_id, to="orchestrator.change_notification")
        return Response({"secret": services.renew_secret(notification.id)})


class DeliveriesView(APIView):
    pagination_class = LastNumberFirst

    @extend_schema(
        operation_id="list_deliveries",
        tags=["notifications"],
        summary="List what a notification has sent, newest first",
        parameters=[NOTIFICATION_ID, DeliveryFilters],
        responses={(200, "application/json"): DeliverySerializer(many=True), **problems(404)},
    )
    def get(self, request: Request, notification_id: str) -> Response:
        notification = _visible(request, notification_id)
        filters = read_query(DeliveryFilters, request)
        rows = Delivery.objects.filter(notification_id=notification.id)
        if states := filters.get("state"):
            rows = rows.filter(state__in=states)
        if job := filters.get("job"):
            rows = rows.filter(job_id=job)
        return LastNumberFirst().respond(rows, request, DeliverySerializer)


class SendAgainView(APIView):
    @extend_schema(
        operation_id="send_again",
        tags=["notifications"],
        summary="Send a message again",
        description="With the id that it had, whether or not it was delivered.",
        parameters=[NOTIFICATION_ID, DELIVERY_ID, IDEMPOTENCY_KEY],
        request=NoFields,
        responses={202: DeliverySerializer, **problems(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, notification_id: str, delivery_id: str) -> Response:
        read_body(NoFields, request)
        ids = read_path(PARTS, notification_id=notification_id, delivery_id=delivery_id)
        require_visible(request.user, Notification, ids["notification_id"], to="orchestrator.change_notification")
        delivery = Delivery.objects.get(id=ids["delivery_id"], notification_id=ids["notification_id"])
        return Response(DeliverySerializer(services.send_again(delivery.id)).data, status=202)


def _visible(request: Request, given: str, *, to: str = "") -> Notification:
    id = read_id(notification_id=given)
    require_visible(request.user, Notification, id, to=to)
    return Notification.objects.get(id=id)


def _owner(request: Request, name: str | None) -> str:
    """Whose jobs it is to be about. Raises NotPermitted for another's, or BadInput if there is no such user."""
    own = owner_of(request.user)
    if name is None or (name and name in (own, request.user.get_username())):
        return own
    require_granted(request.user, ADD, VIEW_JOBS)
    owner = owner_named(name) if name else ""
    if owner is None and settings.ENV.REQUIRE_AUTH:
        raise BadInput("", [Problem("/owner", "unknown_user", f"There is no user {name!r}.")])
    return name if owner is None else owner


def _check_addresses(request: Request, notification: Notification) -> None:
    """Mail to others is for those who may make notifications for others."""
    if notification.via != Notification.Via.MAIL or may(request.user, ADD):
        return
    if notification.target.strip().lower() != (getattr(request.user, "email", "") or "").lower():
        raise NotPermitted(ADD, "Your mail goes to the address of your own account alone.")
