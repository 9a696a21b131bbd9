"""Owners of jobs: what operators have set for one, how much of the workers it gets and whether it gets any."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import require, require_granted
from orchestrator.http import examples
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import StrictBooleanField, StrictFloatField, StrictSerializer
from orchestrator.http.openapi import example, problems
from orchestrator.http.orchestration_serializers import PATH
from orchestrator.http.orchestration_views import USERNAME
from orchestrator.http.requests import read_body, read_path
from orchestrator.queue import owners


@extend_schema_serializer(component_name="Owner")
class OwnerSerializer(serializers.Serializer[Any]):
    owner = serializers.CharField()
    weight = serializers.FloatField(help_text="Its share of the slots beside others, who have 1 if nothing is set.")
    slot_share = serializers.FloatField(
        allow_null=True, help_text="The most of a queue's slots that it may hold; null: OWNER_SLOT_SHARE."
    )
    paused_at = serializers.DateTimeField(
        allow_null=True, help_text="None of its jobs has been started since; null if it is not paused."
    )


class OwnerChange(StrictSerializer):
    """What changes of an owner; what is left out stays."""

    paused = StrictBooleanField(required=False, help_text="Whether its jobs are kept from starting.")
    weight = StrictFloatField(required=False, min_value=owners.MIN_WEIGHT, max_value=owners.MAX_WEIGHT)
    slot_share = StrictFloatField(
        required=False,
        allow_null=True,
        min_value=owners.MIN_SLOT_SHARE,
        max_value=owners.MAX_SLOT_SHARE,
        help_text="null: as OWNER_SLOT_SHARE says.",
    )


class OwnerView(APIView):
    @extend_schema(
        operation_id="owner",
        tags=["jobs"],
        summary="Get the weight and the share of an owner, and whether it is paused",
        description="Another's with the permission `orchestrator.view_ownershare`. An owner for whom nothing is set "
        "has the weight 1.",
        parameters=[USERNAME],
        responses={200: OwnerSerializer, **problems()},
        examples=[example(200, "An owner", examples.AN_OWNER)],
    )
    def get(self, request: Request, username: str) -> Response:
        name = read_path(PATH, username=username)["username"]
        require(request.user, name, "orchestrator.view_ownershare")
        return _shown(name)

    @extend_schema(
        operation_id="change_owner",
        tags=["jobs"],
        summary="Pause or resume an owner, or change its weight and share of the slots",
        description="Takes effect with the next claim. While an owner is paused, none of its jobs is started; what "
        "runs goes on, and new jobs are accepted. It requires the permissions to pause and to change owners.",
        parameters=[USERNAME],
        request=OwnerChange,
        responses={200: OwnerSerializer, **problems(413, 415)},
        examples=[example(None, name, body) for name, body in examples.CHANGED_OWNERS.items()],
    )
    def patch(self, request: Request, username: str) -> Response:
        name = read_path(PATH, username=username)["username"]
        changes = read_body(OwnerChange, request, partial=True)
        paused = changes.pop("paused", None)
        if paused is not None:
            require_granted(request.user, "orchestrator.pause_ownershare")
        if changes or paused is None:
            require_granted(request.user, "orchestrator.change_ownershare")
        with transaction.atomic():
            if changes:
                owners.change_share(name, **changes)
            if paused is not None:
                (owners.pause_owner if paused else owners.resume_owner)(name)
        return _shown(name)


def _shown(name: str) -> Response:
    return Response(OwnerSerializer(owners.share_of(name)).data)
