"""A pipeline as it is drawn: its steps, those alike in bundles, where its time was spent, and what made it last."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, Q
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from orchestrator import composition
from orchestrator.admin.graph import in_layers
from orchestrator.composition import critical_path
from orchestrator.models import Job
from orchestrator.shown.words import duration
from orchestrator.states import Status

# So many steps that wait for the same, and that the same waits for, are drawn as one.
MIN_BUNDLE = 8
# Steps of a bundle that have a square each; of a larger one the share of each state is shown.
MAX_SQUARES = 600
# Boxes that are still legible. Of a pipeline with more, the steps of a kind that are as deep are drawn as one.
MAX_BOXES = 600
# Rows of the chart of times, and failed steps that are named.
MAX_ROWS, MAX_FAILED = 40, 20

# In units of the drawing, which are pixels.
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 190, 40, 56, 14, 8
SQUARE, SQUARES_IN_ROW, BUNDLE_HEAD = 11, 15, 30
# So far the drawing is scaled down to fit the page; beyond, it is scrolled.
LEAST_SCALE = 0.75
# What a name is cut to, so that it stays within its box.
NAME_CHARACTERS = 24


@dataclass(eq=False)
class Step(composition.Step):
    """A child of a pipeline, with its page. own: how many children of its own are done, and all, if it has any."""

    own: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        return reverse("admin:orchestrator_job_change", args=[self.id])


@dataclass(eq=False)
class Box:
    """What is drawn as one: a step, or a bundle of steps that are alike."""

    steps: list[Step]
    after: set[Box] = field(default_factory=set)
    x: float = 0
    y: float = 0

    @property
    def is_bundle(self) -> bool:
        return len(self.steps) > 1

    @property
    def counts(self) -> Counter[str]:
        return Counter(step.status for step in self.steps)

    @property
    def height(self) -> float:
        if not self.is_bundle:
            return HEIGHT
        if len(self.steps) > MAX_SQUARES:
            return BUNDLE_HEAD + 22
        return BUNDLE_HEAD + SQUARE * -(-len(self.steps) // SQUARES_IN_ROW) + 8


def steps_of(parent: Job) -> list[Step]:
    """The children in an order in which each comes after what it waits for."""
    steps = composition.steps_of(parent.id, Step)
    own = Job.objects.filter(parent__parent=parent.id).values("parent")
    counts = own.annotate(done=Count("id", filter=Q(status=Status.COMPLETED)), total=Count("id"))
    own_of = {row["parent"]: (row["done"], row["total"]) for row in counts}
    for step in steps:
        step.own = own_of.get(step.id)
    return steps


def page(parent: Job, now: datetime) -> dict[str, Any]:
    """What the page of a pipeline shows."""
    steps = steps_of(parent)
    path = critical_path(steps)
    failed = [step for step in steps if step.status == Status.FAILED]
    own = [step for step in steps if step.undoes is None]
    done = sum(step.status == Status.COMPLETED for step in own)
    return {
        "total": len(own),
        "children": len(steps),
        "done": done,
        "percent": 100 * done // max(len(own), 1),
        "compensations": Counter(step.status for step in steps if step.undoes is not None).most_common(),
        "counts": Counter(step.status for step in steps).most_common(),
        "failed": failed[:MAX_FAILED],
        "more_failed": max(0, len(failed) - MAX_FAILED),
        "graph": drawn(boxes_of(steps)),
        "times": times(steps, path, now),
        "path": path,
        "deadline_at": composition.deadline_of(parent),
        "refresh_seconds": 3 if len(steps) <= MAX_SQUARES else 15,
    }


def boxes_of(steps: Sequence[Step]) -> list[Box]:
    """The boxes in an order in which each comes after what it waits for."""
    followers: dict[Step, list[UUID]] = defaultdict(list)
    for step in steps:
        for each in step.after:
            followers[each].append(step.id)
    alike = _grouped(
        steps, lambda step: (step.kind, tuple(sorted(each.id for each in step.after)), tuple(followers[step]))
    )
    boxes = [
        Box(part) for same in alike for part in ([same] if len(same) >= MIN_BUNDLE else [[step] for step in same])
    ]
    if len(boxes) > MAX_BOXES:
        depth: dict[Step, int] = {}
        for step in steps:
            depth[step] = 1 + max((depth[each] for each in step.after), default=-1)
        boxes = [Box(same) for same in _grouped(steps, lambda step: (depth[step], step.kind))]
        boxes.sort(key=lambda box: depth[box.steps[0]])
    else:
        boxes.sort(key=lambda box: box.steps[0].id)
    box_of = {step: box for box in boxes for step in box.steps}
    for box in boxes:
        box.after = {box_of[each] for step in box.steps for each in step.after}
    return boxes


def _grouped(steps: Sequence[Step], key: Callable[[Step], Hashable]) -> list[list[Step]]:
    groups: dict[Hashable, list[Step]] = defaultdict(list)
    for step in steps:
        groups[key(step)].append(step)
    return list(groups.values())


def times(steps: Sequence[Step], path: Sequence[Step], now: datetime) -> dict[str, Any]:
    """A row for each step: how long it waited once it could start, and how long it ran. Of many steps those on the
    critical path, those that run or failed, and those that took longest.
    """
    seen = [step for step in steps if step.started_at and step.has_run]
    if not seen:
        return {"rows": [], "left_out": 0, "seconds": 0}
    begins = min(step.created_at for step in steps)
    ends = max(step.finished_at or now for step in seen)
    whole = max((ends - begins).total_seconds(), 0.001)
    on_path = set(path)

    def matters(step: Step) -> tuple[bool, bool, float]:
        took = ((step.finished_at or now) - step.could_start_at).total_seconds()
        return step not in on_path, step.status not in (Status.RUNNING, Status.FAILED), -took

    shown = sorted(sorted(seen, key=matters)[:MAX_ROWS], key=lambda step: (step.started_at, step.id))
    return {
        "rows": [_row(step, step in on_path, begins, whole, now) for step in shown],
        "left_out": len(seen) - len(shown),
        "seconds": whole,
    }


def _row(step: Step, is_on_path: bool, begins: datetime, whole: float, now: datetime) -> dict[str, Any]:
    started, ended = step.started_at or now, step.finished_at or now
    waited = max(0.0, (started - step.could_start_at).total_seconds())
    ran = max(0.0, (ended - started).total_seconds())
    left = max(0.0, (started - begins).total_seconds() - waited)
    bars = format_html(
        '<svg class="m-span" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="m-waited" x="{}" y="3" width="{}" height="4"/><rect class="m-{}" x="{}" width="{}" height="10"/>'
        "</svg>",
        f"waited {duration(waited)}, ran {duration(ran)}",
        f"{1000 * left / whole:.1f}",
        f"{1000 * waited / whole:.1f}",
        step.status.lower(),
        f"{1000 * (left + waited) / whole:.1f}",
        f"{max(1000 * ran / whole, 3):.1f}",
    )
    return {"step": step, "bars": bars, "waited": waited, "ran": ran, "is_on_path": is_on_path}


def drawn(boxes: Sequence[Box]) -> SafeString:
    """The graph as SVG, from left to right."""
    layers = in_layers({box: box.after for box in boxes})
    heights = [sum(box.height + DOWN for box in layer) - DOWN for layer in layers]
    height = max(heights, default=0)
    for n, layer in enumerate(layers):
        y = MARGIN + (height - heights[n]) / 2
        for box in layer:
            box.x, box.y = MARGIN + n * (WIDTH + ACROSS), y
            y += box.height + DOWN
    edges = format_html_join("", '<path d="{}"/>', ((path,) for path in _edges(boxes)))
    width, whole = 2 * MARGIN + max(len(layers), 1) * (WIDTH + ACROSS) - ACROSS, f"{2 * MARGIN + height:g}"
    return format_html(
        '<svg class="m-graph" width="{}" height="{}" viewBox="0 0 {} {}" style="min-width: {}px" role="group"'
        ' aria-label="The steps of the pipeline"><g class="m-edges">{}</g>{}</svg>',
        width,
        whole,
        width,
        whole,
        int(LEAST_SCALE * width),
        edges,
        format_html_join("", "{}", ((_box(box),) for box in boxes)),
    )


def _edges(boxes: Sequence[Box]) -> Iterator[str]:
    for box in boxes:
        for each in sorted(box.after, key=lambda before: before.y):
            x, y = each.x + WIDTH, each.y + each.height / 2
            to_x, to_y = box.x, box.y + box.height / 2
            bend = max((to_x - x) / 2, 20)
            yield f"M{x:g} {y:g}C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x:g} {to_y:g}"


def _box(box: Box) -> SafeString:
    return _bundle(box) if box.is_bundle else _single(box.steps[0], box)


def _single(step: Step, box: Box) -> SafeString:
    took = ""
    if step.started_at and step.finished_at and step.has_run:
        took = f" · {duration((step.finished_at - step.started_at).total_seconds())}"
    if step.own:
        took = f" · {step.own[0]:,} of {step.own[1]:,} steps"
    return format_html(
        '<a href="{}" class="m-step m-{}"><title>{}: {}</title><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
        '<text class="m-name" x="{}" y="{}">{}</text><text class="m-what" x="{}" y="{}">{}{}</text></a>',
        step.url,
        step.status.lower(),
        step.name,
        step.error or step.status,
        f"{box.x:g}",
        f"{box.y:g}",
        WIDTH,
        HEIGHT,
        f"{box.x + 12:g}",
        f"{box.y + 17:g}",
        _cut(step.name),
        f"{box.x + 12:g}",
        f"{box.y + 32:g}",
        step.status,
        took,
    )


def _bundle(box: Box) -> SafeString:
    counts = box.counts
    worst = next(
        status
        for status in (Status.FAILED, Status.RUNNING, Status.CANCELLED, Status.CREATED, Status.COMPLETED)
        if counts[status]
    )
    said = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    inside = _squares(box) if len(box.steps) <= MAX_SQUARES else _shares(box, counts)
    return format_html(
        '<g class="m-step m-bundle m-{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
        '<text class="m-name" x="{}" y="{}">{} × {}</text>{}</g>',
        worst.lower(),
        said,
        f"{box.x:g}",
        f"{box.y:g}",
        WIDTH,
        f"{box.height:g}",
        f"{box.x + 12:g}",
        f"{box.y + 19:g}",
        f"{len(box.steps):,}",
        _cut(box.steps[0].kind),
        inside,
    )


def _squares(box: Box) -> SafeString:
    return format_html_join(
        "",
        '<a href="{}" class="m-square m-{}"><title>{}: {}</title>'
        '<rect x="{}" y="{}" width="9" height="9" rx="2"/></a>',
        (
            (
                step.url,
                step.status.lower(),
                step.name,
                step.error or step.status,
                f"{box.x + 12 + n % SQUARES_IN_ROW * SQUARE:g}",
                f"{box.y + BUNDLE_HEAD + n // SQUARES_IN_ROW * SQUARE:g}",
            )
            for n, step in enumerate(box.steps)
        ),
    )


def _shares(box: Box, counts: Counter[str]) -> SafeString:
    x, parts = box.x + 12, []
    for status in Status.values:
        width = (WIDTH - 24) * counts[status] / len(box.steps)
        if width:
            parts.append((status.lower(), f"{x:.1f}", f"{box.y + BUNDLE_HEAD:g}", f"{width:.1f}"))
            x += width
    return format_html_join("", '<rect class="m-share m-{}" x="{}" y="{}" width="{}" height="10"/>', parts)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"
