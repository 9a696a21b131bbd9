"""The admin of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.http import HttpRequest
from django.utils.safestring import SafeString

from orchestrator.admin.base import ReadOnlyAdmin
from orchestrator.admin.rendering import as_indented, block, label
from orchestrator.diagnostics.queries import hung_slots
from orchestrator.models import Worker
from orchestrator.shown.lists import column
from orchestrator.shown.words import age

if TYPE_CHECKING:

    class ListedWorker(Worker):
        """A worker with what the list counts."""

        leased_jobs: int
        hung_slots: int


LEASED_JOBS = "(SELECT count(*) FROM orchestrator_job WHERE worker_id = orchestrator_worker.id)"


class StateFilter(admin.SimpleListFilter):
    """By the state of a worker process."""

    title = parameter_name = "state"
    conditions: ClassVar = {
        "alive": Q(ended_at=None, draining_at=None),
        "draining": Q(ended_at=None, draining_at__isnull=False),
        "ended": Q(ended_at__isnull=False, lost=False),
        "lost": Q(lost=True),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state.capitalize()) for state in self.conditions]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Worker]) -> QuerySet[Worker]:
        return queryset.filter(self.conditions.get(self.value() or "", Q()))


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "queues_shown", "running_jobs", "hung", "host", "pid", "started", "seen", "ended")
    list_display_links = ("name",)
    list_filter = (StateFilter,)
    ordering = (F("ended_at").desc(nulls_first=True), "-id")
    search_fields = ("name",)
    fields = (
        ("name", "state", "running_jobs", "hung"),
        ("queues_shown", "host", "pid"),
        ("started_at", "seen_at"),
        ("draining_at", "ended_at"),
        "current_batch",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        leased_jobs = RawSQL(LEASED_JOBS, [])  # noqa: S611 - a constant
        workers: QuerySet[Worker] = super().get_queryset(request)
        return workers.annotate(leased_jobs=leased_jobs, hung_slots=hung_slots())

    @column("started")
    def started(self, worker: Worker) -> SafeString | str:
        return age(worker.started_at)

    @column("seen")
    def seen(self, worker: Worker) -> SafeString | str:
        return age(worker.seen_at)

    @column("ended", "m-wide")
    def ended(self, worker: Worker) -> SafeString | str:
        return age(worker.ended_at)

    @admin.display(description="state")
    def state(self, worker: Worker) -> SafeString:
        if worker.ended_at:
            return label("LOST" if worker.lost else "ENDED")
        return label("DRAINING" if worker.draining_at else "ALIVE")

    @admin.display(description="queues")
    def queues_shown(self, worker: Worker) -> str:
        return ", ".join(worker.queues)

    @admin.display(description="running jobs")
    def running_jobs(self, worker: ListedWorker) -> int:
        """Leased jobs, and those of the current batch."""
        return worker.leased_jobs + len(worker.in_flight_batch)

    @admin.display(description="hung slots")
    def hung(self, worker: ListedWorker) -> SafeString | str:
        """Those whose jobs go on after their timeout; they last until the process ends."""
        return label("HUNG", f"{worker.hung_slots} OF {worker.slots} HUNG") if worker.hung_slots else ""

    @admin.display(description="current batch")
    def current_batch(self, worker: Worker) -> str:
        return block(as_indented(worker.in_flight_batch) if worker.in_flight_batch else "")
