"""Pipelines that clients put together: submitted as graphs of steps, and shown with how far each step is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from access import audit
from orchestrator.client_limits import NO_LIMITS, ClientLimits, nearest_step
from orchestrator.graphs import checks, nesting, references
from orchestrator.graphs.each import EACH, is_item, prefix
from orchestrator.graphs.nesting import PIPELINE as PIPELINE
from orchestrator.graphs.references import LITERAL
from orchestrator.kind_problems import BadPayload, InternalKind, UnknownKind
from orchestrator.kinds import MAX_ATTEMPTS, kind_open_to_clients
from orchestrator.models import Dependency, Job
from orchestrator.models import Step as StepRow
from orchestrator.pipeline_steps import Child
from orchestrator.pipelines import OnFailure, Pipeline
from orchestrator.queue import pipelines
from orchestrator.queue.duplicates import Holder
from orchestrator.queue.steps import set_deadline
from orchestrator.states import FINAL, Status
from orchestrator.submission import BadSubmission, NotUnique, submit

MAX_DEADLINE_SECONDS = 366 * 86_400
COLUMNS = ("id", "name", "kind", "status", "created_at", "started_at", "finished_at", "error")


def submit_pipeline(
    steps: Mapping[str, Any],
    *,
    name: str = "",
    result: Any = msgspec.UNSET,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
    deadline_seconds: float | None = None,
) -> Job:
    """Accepts a graph of steps as a client writes it; see docs/pipelines.md.

    deadline_seconds: it fails if it has not ended so long after it was accepted, or after `run_at`.

    Raises BadGraph with all that is wrong, or what `submit` raises; then nothing was written.
    """
    graph = checks.checked(steps, result)
    payload = {"name": name, "result": graph.result}
    try:
        return _submit(payload, graph.steps, deadline_seconds, owner=owner, priority=priority, run_at=run_at)
    except BadSubmission as error:
        error.problems = [each._replace(pointer=_in_request(each.pointer, graph.steps)) for each in error.problems]
        raise


def start(
    pipeline: Pipeline,
    *,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
    deadline_seconds: float | None = None,
) -> Job:
    """Starts a pipeline that was put together in Python; its steps may be listed in any order.

    deadline_seconds: it fails if it has not ended so long after it was started, or after `run_at`.

    Raises BadGraph for steps that wait for each other, or what `submit` raises; then nothing was written.
    """
    planned = pipeline.in_order()
    payload = {"name": planned.name, "result": planned.result}
    return _submit(payload, planned, deadline_seconds, owner=owner, priority=priority, run_at=run_at)


def start_definition(
    name: str,
    payload: Any = None,
    *,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
    deadline_seconds: float | None = None,
) -> Job:
    """Starts a pipeline that code has defined by this name, for a client.

    Raises UnknownKind, InternalKind, or what `submit` raises, of which a bad payload is at /input; then nothing was
    written.
    """
    try:
        kind = kind_open_to_clients(name)
    except (UnknownKind, InternalKind) as error:
        error.problems = [each._replace(pointer="/definition") for each in error.problems]
        raise
    if kind.plan is None:
        detail = f"Jobs of kind {kind.name!r} are no pipelines: submit them by POST /jobs."
        raise BadSubmission("/definition", "no_pipeline", detail)
    try:
        return _submit(payload, None, deadline_seconds, kind=kind.name, owner=owner, priority=priority, run_at=run_at)
    except BadPayload as error:
        error.problems = [
            each._replace(pointer=each.pointer.replace("/payload", "/input", 1)) for each in error.problems
        ]
        raise


def _submit(
    payload: Any,
    children: Sequence[Child] | None,
    deadline_seconds: float | None,
    *,
    kind: str = PIPELINE,
    **options: Any,
) -> Job:
    if deadline_seconds is not None and not 0 < deadline_seconds <= MAX_DEADLINE_SECONDS:
        detail = f"A deadline is more than 0 and at most {MAX_DEADLINE_SECONDS:,} s, not {deadline_seconds!r}."
        raise BadSubmission("/deadline_seconds", "invalid", detail)
    with transaction.atomic():
        job = submit(kind, payload, children=children, **options)
        if deadline_seconds is not None and not job.duplicate:
            set_deadline(job.id, deadline_seconds)
    return job


def fork(pipeline: Job, first: str, *, limits: ClientLimits = NO_LIMITS) -> Job:
    """Starts a new pipeline with the steps of one, of which only the step `first`, what comes after it, and what has
    not completed run, with what was compensated and what comes after that; the results of the others are taken over.

    limits: of the client who asks. Priorities and attempts that it may not ask for become the nearest that it may.

    Raises NoSuchStep, or what `submit` raises; then nothing was written.
    """
    with transaction.atomic():
        children = {child.name: child for child in _own_steps(pipeline)}
        after = _earlier_steps(pipeline, children)
        if first not in children:
            raise NoSuchStep(first, children)
        again = _at_or_after([first, *_compensated(pipeline, children)], after)
        own = StepRow.objects.filter(job=pipeline).first() or StepRow()
        again_as = (_as_child(child, after[name]) for name, child in children.items())
        steps = Pipeline(steps=[nearest_step(child, limits) for child in again_as])
        steps.definition = own.definition
        priority = limits.nearest_priority(pipeline.priority, pipeline.kind)
        new = submit(pipeline.kind, pipeline.payload, owner=pipeline.owner, priority=priority, children=steps)
        if new.duplicate:
            raise NotUnique(Holder(new.id, new.kind, new.owner, new.status, new.attempt), owner=new.owner)
        if own.deadline_seconds:
            set_deadline(new.id, own.deadline_seconds)
        ids = dict(Job.objects.filter(parent=new).values_list("name", "id"))
        reused = [each for each in children.values() if each.status == Status.COMPLETED and each.name not in again]
        skipped = [ids[each.name] for each in reused if _outcome(each) == StepRow.Outcome.SKIPPED]
        if reused:
            pipelines.take_over({ids[each.name]: each.id for each in reused}, skipped)
        audit.record("pipeline.fork", pipeline.id, pipeline.kind, after={"pipeline": str(new.id), "from": first})
    return Job.objects.get(id=new.id)


class NoSuchStep(LookupError):
    """A pipeline has no step of that name."""

    def __init__(self, name: str, steps: Collection[str]) -> None:
        some = ", ".join(list(steps)[:10])
        super().__init__(f"The pipeline has no step {name!r:.120}; its first ones are: {some}.")


def _own_steps(pipeline: Job) -> list[Job]:
    """The steps of a pipeline, in the order of ids, without compensations and what steps with `each` have added."""
    children = list(Job.objects.filter(parent=pipeline).select_related("step").order_by("id"))
    children = [child for child in children if not (hasattr(child, "step") and child.step.compensates)]
    fanning = {prefix(child.name) for child in children if child.kind == EACH}
    return [child for child in children if child.name[: child.name.rfind("[") + 1] not in fanning]


def _earlier_steps(pipeline: Job, children: Mapping[str, Job]) -> dict[str, list[str]]:
    after: dict[str, list[str]] = {name: [] for name in children}
    needs = Dependency.objects.filter(job__parent=pipeline).values_list("job__name", "depends_on__name")
    for name, earlier in needs:
        if name in children and earlier in children:
            after[name].append(earlier)
    return after


def _compensated(pipeline: Job, steps: Collection[str]) -> Iterator[str]:
    """The steps of which anything was to be undone."""
    undone = StepRow.objects.filter(job__parent=pipeline).values_list("compensates").exclude(compensates=None)
    for name in Job.objects.filter(id__in=undone).values_list("name", flat=True):
        yield name if name in steps else name[: name.rfind("[")]


def _at_or_after(firsts: Iterable[str], after: Mapping[str, Sequence[str]]) -> set[str]:
    """The steps and all that come after them; steps are listed after what they come after."""
    found = {*firsts}
    for name, earlier in after.items():
        if not found.isdisjoint(earlier):
            found.add(name)
    return found


def _outcome(child: Job) -> str:
    return child.step.outcome if hasattr(child, "step") else ""


def _as_child(child: Job, after: Sequence[str]) -> Child:
    """The step as it was submitted."""
    step: StepRow = getattr(child, "step", None) or StepRow()
    each: dict[str, Any] = step.each or {}
    nested = each.get("nested") if each else step.nested
    given, is_template = (child.payload, False) if step.payload is None else (step.payload, True)
    pipeline, payload = nesting.restored(nested or {}, given, is_template=is_template)
    literal = payload if is_template or references.is_plain(payload) else {LITERAL: payload}
    return Child(
        name=child.name,
        kind=each.get("kind", child.kind),
        payload=literal,
        pipeline=pipeline,
        after=after,
        priority=child.priority,
        max_attempts=min(each.get("max_attempts", child.max_attempts), MAX_ATTEMPTS),
        on_failure=_on_failure(step) if hasattr(child, "step") else None,
        when=step.condition,
        wait_for=step.wait,
        each=each.get("list"),
        max_running=each.get("max_running"),
        compensate=step.compensate and {key: step.compensate[key] for key in ("kind", "payload", "max_attempts")},
    )


def _on_failure(step: StepRow) -> OnFailure:
    return "continue" if step.on_failure == "continue" else "compensate" if step.on_failure == "compensate" else "fail"


def _in_request(pointer: str, children: Sequence[Any]) -> str:
    """Where in the request is what is wrong with a child."""
    _, first, *rest = [*pointer.split("/"), ""]
    if first != "children" or not rest[0].isdigit():
        return pointer.removeprefix("/payload")
    child = children[int(rest[0])]
    within = "/".join(["", *rest[1:]]).rstrip("/")
    if child.pipeline is not None:
        if within.startswith("/pipeline/"):
            within = f"/pipeline{_in_request(within.removeprefix('/pipeline'), child.pipeline.steps)}"
        within = within.replace("/payload/input", "/payload", 1)
    return f"/steps/{child.name}{within}"


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
    # Of a compensation, what it undoes.
    undoes: Any = None

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
    undone = StepRow.objects.filter(job__parent=parent_id).values_list("job_id", "compensates")
    for id, compensates in undone.exclude(compensates=None):
        if id in steps and (one := steps.get(compensates)):
            steps[id].undoes = one
            steps[id].after.insert(0, one)
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
    children = steps_of(job.id, Step)
    if not children:
        raise Job.DoesNotExist
    steps = [step for step in children if step.undoes is None]
    signals = dict(StepRow.objects.filter(job__parent=job.id, waits_since__isnull=False).values_list("job", "signal"))
    outcomes = dict(StepRow.objects.filter(job__parent=job.id).exclude(outcome="").values_list("job", "outcome"))
    each = dict(StepRow.objects.filter(job__parent=job.id, each__isnull=False).values_list("job", "each__kind"))
    has_children = Exists(Job.objects.filter(parent=OuterRef("id")))
    nested = set(Job.objects.filter(has_children, parent=job.id).values_list("id", flat=True))
    now = timezone.now()
    done = sum(step.status == Status.COMPLETED or step.id in outcomes for step in steps)
    return {
        "pipeline_id": job.id,
        "name": job.payload.get("name", "") if job.kind == PIPELINE else "",
        "kind": job.kind,
        "version": _version_of(job),
        "status": job.status,
        "parent": job.parent_id,
        "owner": job.owner,
        "result": job.result,
        "error": job.error,
        "progress": {"done": done, "total": len(steps)},
        "counts": _counts(steps),
        "critical_path": [step.name for step in critical_path(steps)],
        "seconds": _seconds(job.started_at, job.finished_at, now),
        "deadline_at": deadline_of(job),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "steps": [
            _shown(
                step,
                kind=each.get(step.id, step.kind),
                outcome=outcomes.get(step.id, ""),
                signal=signals.get(step.id),
                has_steps=step.id in nested,
                now=now,
            )
            for step in steps
            if step.item_of is None
        ],
        "compensations": [_compensation(step) for step in children if step.undoes is not None],
    }


def _version_of(job: Job) -> int | None:
    """Of the definition that has planned it."""
    return StepRow.objects.filter(job=job).values_list("definition__version", flat=True).first()


def deadline_of(job: Job) -> datetime | None:
    """When a pipeline fails that has not ended; None if never, or once that has passed."""
    if job.status in FINAL:
        return None
    return StepRow.objects.filter(job=job).values_list("deadline_at", flat=True).first()


def _shown(
    step: Step, *, kind: str, outcome: str, signal: str | None, has_steps: bool, now: datetime
) -> dict[str, Any]:
    return {
        "name": step.name,
        "job_id": step.id,
        "pipeline_id": step.id if has_steps else None,
        "kind": kind,
        "status": step.status,
        "outcome": "PASSED" if outcome == StepRow.Outcome.PASSING else outcome,
        "signal": signal if step.status == Status.CREATED else None,
        "after": [each.name for each in step.comes_after],
        "items": _counts(step.items) if step.kind == EACH else None,
        "waited_seconds": _seconds(step.could_start_at, step.started_at, now) if step.has_run else None,
        "seconds": _seconds(step.started_at, step.finished_at, now) if step.has_run else None,
        "started_at": step.started_at,
        "finished_at": step.finished_at if step.status in FINAL else None,
        "error": step.error,
    }


def _compensation(step: Step) -> dict[str, Any]:
    return {
        "step": step.undoes.name,
        "job_id": step.id,
        "kind": step.kind,
        "status": step.status,
        "started_at": step.started_at if step.has_run else None,
        "finished_at": step.finished_at if step.status in FINAL else None,
        "error": step.error,
    }


def _counts(steps: Sequence[Step]) -> dict[str, int]:
    return {status.lower(): count for status, count in Counter(step.status for step in steps).items()}


def _seconds(since: datetime | None, until: datetime | None, now: datetime) -> float | None:
    return None if since is None else round(max(0.0, ((until or now) - since).total_seconds()), 3)
