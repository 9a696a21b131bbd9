"""The usual way: Django, DRF and Celery. A row of the ORM for each task, a message once it is committed, and a worker
that loads the row, adds, and saves the row and a row of the result.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from celery import Celery
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

application = get_wsgi_application()


class Task(models.Model):
    id: int
    objects: ClassVar[models.Manager[Task]]

    a = models.DecimalField(max_digits=20, decimal_places=4)
    b = models.DecimalField(max_digits=20, decimal_places=4)
    status = models.CharField(max_length=10, default="PENDING", db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "usual"

    def __str__(self) -> str:
        return f"{self.a} + {self.b}"


class Result(models.Model):
    objects: ClassVar[models.Manager[Result]]

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="results")
    result = models.DecimalField(max_digits=21, decimal_places=4)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "usual"

    def __str__(self) -> str:
        return str(self.result)


def create_tables() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Task)
        editor.create_model(Result)


app = Celery("usual", broker=os.environ["BROKER_URL"])
# Results are rows, so Celery keeps none. All else is Celery's default.
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, timezone=settings.TIME_ZONE)


@app.task
def add(task_id: int) -> None:
    task = Task.objects.get(id=task_id)
    with transaction.atomic():
        Result.objects.create(task=task, result=task.a + task.b)
        task.status = "SUCCESS"
        task.save(update_fields=["status", "updated_at"])


class TaskSerializer(serializers.ModelSerializer[Task]):
    class Meta:
        model = Task
        fields = ("id", "a", "b", "status", "created_at", "updated_at")
        read_only_fields = ("status",)


class TasksView(APIView):
    """One task."""

    def post(self, request: Request) -> Response:
        serializer = TaskSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            task = serializer.save()
            add.delay_on_commit(task.id)  # type: ignore[attr-defined]
        return Response(TaskSerializer(task).data, status=202)


class BatchView(APIView):
    """A list of tasks, all or none."""

    def post(self, request: Request) -> Response:
        serializer = TaskSerializer(data=request.data, many=True)
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            tasks = Task.objects.bulk_create([Task(**task) for task in serializer.validated_data])
            for task in tasks:
                add.delay_on_commit(task.id)  # type: ignore[attr-defined]
        return Response(TaskSerializer(tasks, many=True).data, status=202)


class ReadyView(APIView):
    def get(self, request: Request) -> Response:
        return Response({"ready": True})


urlpatterns: list[Any] = [
    path("tasks/", TasksView.as_view()),
    path("tasks/batch/", BatchView.as_view()),
    path("ready/", ReadyView.as_view()),
]
