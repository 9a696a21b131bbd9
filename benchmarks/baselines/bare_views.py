"""Bare DRF views: one inserts a row, one reads a row. What an HTTP request costs when next to nothing is done."""

from __future__ import annotations

from typing import Any

from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.shortcuts import get_object_or_404
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

application = get_wsgi_application()


class Row(models.Model):
    a = models.DecimalField(max_digits=20, decimal_places=4)
    b = models.DecimalField(max_digits=20, decimal_places=4)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "bare_views"

    def __str__(self) -> str:
        return f"{self.a} + {self.b}"


def create_tables() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Row)


class RowSerializer(serializers.ModelSerializer[Row]):
    class Meta:
        model = Row
        fields = ("id", "a", "b", "created_at")


class InsertView(APIView):
    def post(self, request: Request) -> Response:
        serializer = RowSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return Response(serializer.data, status=201)


class ReadView(APIView):
    def get(self, request: Request, row_id: int) -> Response:
        return Response(RowSerializer(get_object_or_404(Row, id=row_id)).data)


class ReadyView(APIView):
    def get(self, request: Request) -> Response:
        return Response({"ready": True})


urlpatterns: list[Any] = [
    path("rows/", InsertView.as_view()),
    path("rows/<int:row_id>/", ReadView.as_view()),
    path("ready/", ReadyView.as_view()),
]
