"""Calendars in the API: what is read and shown of them, and their endpoints."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import require_granted
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import LinkField, StrictCharField, StrictRegexField, StrictSerializer
from orchestrator.http.links import link, location
from orchestrator.http.openapi import LOCATION_OF_NEW, example, problems
from orchestrator.http.pagination import CursorPagination
from orchestrator.http.requests import read_body
from scheduler.http import examples
from scheduler.models import MAX_DESCRIPTION_LENGTH, MAX_NAME_LENGTH, Calendar
from scheduler.recurrence.exceptions import MAX_MOMENTS
from scheduler.recurrence.reading import MAX_HOURS
from scheduler.services.calendars import change_calendar, create_calendar, delete_calendar

NAME = openapi.path_parameter("name", "The calendar's name.")


def _texts(help_text: str, max_length: int) -> serializers.ListField:
    return serializers.ListField(
        child=StrictCharField(max_length=40), required=False, default=list, max_length=max_length, help_text=help_text
    )


@extend_schema_serializer(component_name="CalendarBody")
class CalendarBody(StrictSerializer):
    """When schedules may run: on its weekdays, but for the holidays of a country and for closed days, at its hours."""

    name = StrictRegexField(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=MAX_NAME_LENGTH)
    description = StrictCharField(
        required=False, allow_blank=True, default="", max_length=MAX_DESCRIPTION_LENGTH, help_text="For people."
    )
    country = StrictCharField(
        required=False,
        allow_blank=True,
        default="",
        max_length=3,
        help_text="Closed on its public holidays (ISO 3166).",
    )
    subdivision = StrictCharField(
        required=False, allow_blank=True, default="", max_length=10, help_text="A part of it with holidays of its own."
    )
    weekdays = _texts("The open ones, MO to SU; all if there are none.", 7)
    hours = _texts("Open from one time to another, 09:00-17:00; at any time if there are none.", MAX_HOURS)
    closed_days = _texts("Days, or from one to another: 2030-12-24, 2030-12-24/2031-01-01.", MAX_MOMENTS)
    open_days = _texts("Days that are open whatever else is said.", MAX_MOMENTS)


class CalendarChange(CalendarBody):
    """As a calendar, but for its name, which stays."""

    name = None  # type: ignore[assignment]


@extend_schema_serializer(component_name="Calendar")
class CalendarSerializer(serializers.Serializer[Calendar]):
    """When schedules may run."""

    url = serializers.SerializerMethodField()
    name = serializers.CharField()
    description = serializers.CharField()
    country = serializers.CharField()
    subdivision = serializers.CharField()
    weekdays = serializers.ListField(child=serializers.CharField())
    hours = serializers.ListField(child=serializers.CharField())
    closed_days = serializers.ListField(child=serializers.CharField())
    open_days = serializers.ListField(child=serializers.CharField())
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(LinkField)
    def get_url(self, calendar: Calendar) -> str:
        return link("calendar", calendar.name)


class ByName(CursorPagination):
    """Rows by their names."""

    ordering = "pk"
    cursor = {"type": "string", "maxLength": MAX_NAME_LENGTH}

    def read_cursor(self, text: str) -> str:
        if len(text) > MAX_NAME_LENGTH:
            raise ValueError(text)
        return text


class CalendarsView(APIView):
    pagination_class = ByName

    @extend_schema(
        operation_id="create_calendar",
        tags=["schedules"],
        summary="Create a calendar",
        description="Schedules of everyone may name it, so it takes the permission `scheduler.add_calendar`.",
        parameters=[LOCATION_OF_NEW],
        request=CalendarBody,
        responses={201: CalendarSerializer, **problems(413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_CALENDARS.items()]
        + [example(201, "Created", examples.CALENDAR)],
    )
    def post(self, request: Request) -> Response:
        _require(request, "add")
        shown = CalendarSerializer(create_calendar(Calendar(**read_body(CalendarBody, request)))).data
        return Response(shown, status=201, headers=location(request, shown["url"]))

    @extend_schema(
        operation_id="list_calendars",
        tags=["schedules"],
        summary="List calendars by name",
        responses={(200, "application/json"): CalendarSerializer(many=True), **problems()},
        examples=[example(200, "Calendars", examples.CALENDAR)],
    )
    def get(self, request: Request) -> Response:
        return ByName().respond(Calendar.objects.all(), request, CalendarSerializer)


class CalendarView(APIView):
    @extend_schema(
        operation_id="calendar",
        tags=["schedules"],
        summary="Get a calendar",
        parameters=[NAME],
        responses={200: CalendarSerializer, **problems(404)},
        examples=[example(200, "A calendar", examples.CALENDAR)],
    )
    def get(self, request: Request, name: str) -> Response:
        return Response(CalendarSerializer(Calendar.objects.get(name=name)).data)

    @extend_schema(
        operation_id="change_calendar",
        tags=["schedules"],
        summary="Change fields of a calendar",
        description="The schedules that name it go by it from the next second on.",
        parameters=[NAME],
        request=CalendarChange,
        responses={200: CalendarSerializer, **problems(404, 413, 415)},
        examples=[
            example(None, "Another closed day", {"closed_days": ["2030-12-24"]}),
            example(200, "Changed", examples.CALENDAR),
        ],
    )
    def patch(self, request: Request, name: str) -> Response:
        _require(request, "change")
        changes: dict[str, Any] = read_body(CalendarChange, request, partial=True)
        return Response(CalendarSerializer(change_calendar(name, changes)).data)

    @extend_schema(
        operation_id="delete_calendar",
        tags=["schedules"],
        summary="Delete a calendar that no schedule names",
        parameters=[NAME],
        responses={204: OpenApiResponse(description="Deleted."), **problems(404, 409)},
    )
    def delete(self, request: Request, name: str) -> Response:
        _require(request, "delete")
        delete_calendar(name)
        return Response(status=204)


def _require(request: Request, verb: str) -> None:
    require_granted(request.user, f"scheduler.{verb}_calendar")
