"""Pipelines that clients put together: submitted as graphs of steps, and shown with how far each step is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.utils import timezone

from orchestrator.graphs import checks, rows
from orchestrator.graphs.checks import BadGraph
from orchestrator.graphs.each import EACH, is_item
from orchestrator.graphs.references import BadReference, escaped
from orchestrator.kinds import Child, Problem
from orchestrator.models import Dependency, Job
from orchestrator.models import Step as StepRow
from orchestrator.pipelines import Pipeline
from orchestrator.states import FINAL, Status
from orchestrator.submission import BadSubmission, submit

PIPELINE = "pipeline.run"
COLUMNS = ("id", "name", "kind", "status", "created_at", "started_at", "finished_at", "error")


def submit_pipeline(
    steps: Mapping[str, Any],
    *,
    name: str = "",
    result: Any = msgspec.UNSET,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
) -> Job:
    """Accepts a graph of steps as a client writes it; see docs/pipelines.md.

    Raises BadGraph with all that is wrong, or what `submit` raises; then nothing was written.
    """
    graph = checks.checked(steps, result)
    payload = {"name": name, "result": graph.result}
    try:
        return submit(PIPELINE, payload, owner=owner, priority=priority, run_at=run_at, children=graph.steps)
    except BadSubmission as error:
        error.problems = [each._replace(pointer=_in_request(each.pointer, graph.steps)) for each in error.problems]
        raise


def start(pipeline: Pipeline, *, owner: str = "", priority: int | None = None, run_at: datetime | None = None) -> Job:
    """Starts a pipeline that was put together in Python; its steps may be listed in any order.

    Raises BadGraph for steps that wait for each other, or what `submit` raises; then nothing was written.
    """
    steps = {each.name: each for each in pipeline}
    after = {name: [*each.after, *_referred_to(each)] for name, each in steps.items()}
    known = {name: [each for each in names if each in steps] for name, names in after.items()}
    children = [steps[name] for name in checks.in_order(known)] if len(steps) == len(pipeline) else list(pipeline)
    result = checks.of_last(after) if pipeline.result is msgspec.UNSET else pipeline.result
    payload = {"name": pipeline.name, "result": result}
    return submit(PIPELINE, payload, owner=owner, priority=priority, run_at=run_at, children=children)


def _referred_to(child: Child) -> list[str]:
    try:
        return list(rows.referred_to(child))
    except BadReference as error:
        pointer = f"/steps/{escaped(child.name)}{error.pointer}"
        raise BadGraph([Problem(pointer, "reference", str(error))]) from None


def _in_request(pointer: str, children: Sequence[Any]) -> str:
    """Where in the request is what is wrong with a child."""
    _, first, *rest = [*pointer.split("/"), ""]
    if first != "children" or not rest[0].isdigit():
        return pointer.removeprefix("/payload")
    return "/".join(["/steps", children[int(rest[0])].name, *rest[1:]]).rstrip("/")


@dataclass(eq=False)
class Step:
    """A child of a pipeline."""

    id: UUID
    name: str
    kind: str
    status: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str
    after: list[Any] = field(default_factory=list)
    # Of a step with `each`, the jobs that it has added; and of each of those, the step.
    items: list[Any] = field(default_factory=list)
    item_of: Any = None

    @property
    def comes_after(self) -> list[Any]:
        """The steps that it comes after, as they were submitted: without its own items."""
        own = set(self.items)
        return [each for each in self.after if each not in own] if own else self.after

    @property
    def could_start_at(self) -> datetime:
        """When the last of what it waited for was done."""
        ended: list[datetime] = [each.finished_at for each in self.after if each.finished_at]
        return max([self.created_at, *ended])

    @property
    def has_run(self) -> bool:
        return self.started_at is not None and self.status != Status.CREATED


S = TypeVar("S", bound=Step)


def steps_of(parent_id: UUID, make: type[S]) -> list[S]:
    """The children in an order in which each comes after what it waits for: ids rise so."""
    children = Job.objects.filter(parent=parent_id).order_by("id")
    steps = {row[0]: make(*row) for row in children.values_list(*COLUMNS)}
    needs = Dependency.objects.filter(job__parent=parent_id).values_list("job_id", "depends_on_id")
    for job, depends_on in needs:
        if job in steps and depends_on in steps:
            steps[job].after.append(steps[depends_on])
    for step in steps.values():
        if step.kind == EACH:
            _know_items(step)
    return list(steps.values())


def _know_items(step: S) -> None:
    """An item comes after what its step comes after."""
    step.items = [each for each in step.after if is_item(each.name, step.name)]
    before = step.comes_after
    for item in step.items:
        item.after, item.item_of = before, step


def critical_path(steps: Sequence[S]) -> list[S]:
    """The steps that decided when the pipeline was done: the last one to end, the last one that it waited for, and so
    on.
    """
    ended = [step for step in steps if step.finished_at and step.has_run]
    path: list[S] = []
    last = max(ended, key=lambda step: (step.finished_at, step.id), default=None)
    while last is not None:
        path.append(last)
        before = [each for each in last.after if each.finished_at]
        last = max(before, key=lambda step: (step.finished_at, step.id), default=None)
    return path[::-1]


def pipeline_detail(job: Job) -> dict[str, Any]:
    """All that is shown of a pipeline. Raises Job.DoesNotExist for a job without children."""
    steps = steps_of(job.id, Step)
    if not steps:
        raise Job.DoesNotExist
    signals = dict(StepRow.objects.filter(job__parent=job.id, waits_since__isnull=False).values_list("job", "signal"))
    outcomes = dict(StepRow.objects.filter(job__parent=job.id).exclude(outcome="").values_list("job", "outcome"))
    each = dict(StepRow.objects.filter(job__parent=job.id, each__isnull=False).values_list("job", "each__kind"))
    now = timezone.now()
    done = sum(step.status == Status.COMPLETED or step.id in outcomes for step in steps)
    return {
        "pipeline_id": job.id,
        "name": job.payload.get("name", "") if job.kind == PIPELINE else "",
        "kind": job.kind,
        "status": job.status,
        "owner": job.owner,
        "result": job.result,
        "error": job.error,
        "progress": {"done": done, "total": len(steps)},
        "counts": _counts(steps),
        "critical_path": [step.name for step in critical_path(steps)],
        "seconds": _seconds(job.started_at, job.finished_at, now),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "steps": [
            _shown(step, each.get(step.id, step.kind), outcomes.get(step.id, ""), signals.get(step.id), now)
            for step in steps
            if step.item_of is None
        ],
    }


def _shown(step: Step, kind: str, outcome: str, signal: str | None, now: datetime) -> dict[str, Any]:
    return {
        "name": step.name,
        "job_id": step.id,
        "kind": kind,
        "status": step.status,
        "outcome": outcome and ("SKIPPED" if outcome == StepRow.Outcome.SKIPPED else "PASSED"),
        "signal": signal if step.status == Status.CREATED else None,
        "after": [each.name for each in step.comes_after],
        "items": _counts(step.items) if step.kind == EACH else None,
        "waited_seconds": _seconds(step.could_start_at, step.started_at, now) if step.has_run else None,
        "seconds": _seconds(step.started_at, step.finished_at, now) if step.has_run else None,
        "started_at": step.started_at,
        "finished_at": step.finished_at if step.status in FINAL else None,
        "error": step.error,
    }


def _counts(steps: Sequence[Step]) -> dict[str, int]:
    return {status.lower(): count for status, count in Counter(step.status for step in steps).items()}


def _seconds(since: datetime | None, until: datetime | None, now: datetime) -> float | None:
    return None if since is None else round(max(0.0, ((until or now) - since).total_seconds()), 3)
