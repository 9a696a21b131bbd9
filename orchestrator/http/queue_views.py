"""The queues: what waits and runs in them, and pausing them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import require_granted
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import StrictBooleanField, StrictSerializer
from orchestrator.http.openapi import example, problems
from orchestrator.http.requests import read_body
from orchestrator.queue.pausing import pause_queue, resume_queue
from orchestrator.steering.queues import queues_now

QUEUE = openapi.path_parameter("queue", "The queue's name.")


@extend_schema_serializer(component_name="Queue")
class QueueSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    pool = serializers.CharField(allow_null=True, help_text="threads or prefork; null if QUEUES does not declare it.")
    paused_at = serializers.DateTimeField(
        allow_null=True, help_text="No job of the queue has been started since; null if it is not paused."
    )
    kinds = serializers.IntegerField(help_text="Kinds of job that run in it.")
    waiting = serializers.IntegerField(help_text="Jobs that could start, as counted last, for each kind up to 10,000.")
    oldest_since = serializers.DateTimeField(allow_null=True, help_text="Since when the oldest of them could.")
    running = serializers.IntegerField(help_text="Jobs that a worker runs, likewise.")
    workers = serializers.IntegerField(help_text="Worker processes alive that serve it.")
    slots = serializers.IntegerField(help_text="How many jobs these run at once.")


@extend_schema_serializer(component_name="Queues")
class QueuesSerializer(serializers.Serializer[Any]):
    results = QueueSerializer(many=True)


class QueueChange(StrictSerializer):
    paused = StrictBooleanField(help_text="Whether no job of the queue is to be started.")


class QueuesView(APIView):
    @extend_schema(
        operation_id="list_queues",
        tags=["jobs"],
        summary="List the queues with what waits and runs in each",
        responses={200: QueuesSerializer, **problems()},
        examples=[example(200, "Queues", {"results": [examples.A_QUEUE]})],
    )
    def get(self, request: Request) -> Response:
        return Response({"results": [each._asdict() for each in queues_now()]})


class QueueView(APIView):
    @extend_schema(
        operation_id="change_queue",
        tags=["jobs"],
        summary="Pause or resume a queue",
        description="While it is paused, no job of any kind of it is started, within a moment; what runs goes on, and "
        "new jobs are accepted. A kind that was paused by itself stays so when its queue is resumed.",
        parameters=[QUEUE],
        request=QueueChange,
        responses={200: QueueSerializer, **problems(404, 413, 415)},
        examples=[example(None, "Pause", {"paused": True}), example(200, "Paused", examples.A_QUEUE)],
    )
    def patch(self, request: Request, queue: str) -> Response:
        require_granted(request.user, "orchestrator.pause_queue")
        asked = read_body(QueueChange, request)
        (pause_queue if asked["paused"] else resume_queue)(queue)
        return Response(next(each._asdict() for each in queues_now() if each.name == queue))
