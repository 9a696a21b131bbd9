"""Pipelines written in Python: steps, side by side or one after the other, for a kind's `plan` or to be started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, overload

import msgspec
from typing_extensions import TypeForm

from orchestrator.graphs import rows
from orchestrator.graphs.checks import MAX_DEPENDENCIES, BadGraph, in_order, of_last
from orchestrator.graphs.each import INDEX, ITEM, ITS_ITEM
from orchestrator.graphs.nesting import INPUT, PIPELINE
from orchestrator.graphs.references import DEFAULT, FROM, BadReference, MissingValue, escaped
from orchestrator.graphs.waits import SIGNAL
from orchestrator.kind import P
from orchestrator.kind_problems import Problem
from orchestrator.kinds import Kind, job
from orchestrator.pipeline_steps import Child, Nested

OnFailure = Literal["fail", "continue", "compensate"]


class Pipeline(Sequence[Child]):
    """Steps in an order in which each comes after what it waits for. What adds to one returns it, so calls chain.

    name: for people. result: what it returns when it is started by itself, with `ref`s; by default what its last step
        does, if one step is last. A kind whose `plan` it is returns what its function does.
    """

    # What is kept of the definition that has put it together.
    definition: dict[str, Any] | None = None

    def __init__(self, name: str = "", steps: Iterable[Child] = (), *, result: Any = msgspec.UNSET) -> None:
        self.name, self.result = name, result
        self._steps = list(steps)

    def step(
        self,
        name: str,
        kind: str | Kind[P, Any, ...] | Pipeline,
        payload: P | Mapping[str, Any] | None = None,
        *,
        after: Iterable[str] = (),
        priority: int | None = None,
        max_attempts: int | None = None,
        on_failure: OnFailure | None = None,
        when: Mapping[str, Any] | None = None,
        wait_for: Any = None,
        compensate: Mapping[str, Any] | None = None,
    ) -> Pipeline:
        """Adds a step. See `Child` and docs/pipelines.md for what it may have."""
        options: dict[str, Any] = {
            "priority": priority,
            "max_attempts": max_attempts,
            "when": when,
            "wait_for": wait_for,
            "compensate": compensate,
        }
        return self.add(step(name, kind, payload, after=after, on_failure=on_failure, **options))

    def each(
        self,
        name: str,
        kind: str | Kind[P, Any, ...] | Pipeline,
        values: Mapping[str, Any],
        payload: P | Mapping[str, Any] | None = None,
        *,
        max_running: int | None = None,
        **options: Any,
    ) -> Pipeline:
        """Adds a step that runs for each value of a list: see the function `each`."""
        return self.add(each(name, kind, values, payload, max_running=max_running, **options))

    def add(self, *parts: Child | Pipeline) -> Pipeline:
        """Adds steps as they are."""
        for part in parts:
            self._steps += _steps_of(part)
        return self

    @property
    def firsts(self) -> list[str]:
        """The steps that come after none of the others."""
        names = {one.name for one in self}
        return [one.name for one in self if names.isdisjoint(one.after)]

    @property
    def lasts(self) -> list[str]:
        """The steps that none of the others come after."""
        earlier = {name for one in self for name in one.after}
        return [one.name for one in self if one.name not in earlier]

    def in_order(self) -> Pipeline:
        """The same with each step after all that it waits for, and with the result that is meant if none was given.

        Raises BadGraph for steps that wait for each other.
        """
        steps = {each.name: each for each in self}
        after = {name: [*each.after, *_referred_to(each)] for name, each in steps.items()}
        known = {name: [each for each in names if each in steps] for name, names in after.items()}
        ordered = [steps[name] for name in in_order(known)] if len(steps) == len(self) else self._steps
        result = of_last(after) if self.result is msgspec.UNSET else self.result
        return Pipeline(self.name, ordered, result=result)

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> Child: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Child]: ...
    def __getitem__(self, index: int | slice) -> Child | Sequence[Child]:
        return self._steps[index]


class pipeline(Generic[P]):
    """Makes a function that puts a pipeline together from a payload a named definition: a kind each job of which is
    such a pipeline, started like any job, by `POST /pipelines`, by schedules, or as `submit(kind, payload)`.

    What runs was planned when it was submitted, so it keeps its graph and its result when the code changes.

    name, payload: as of `job`. version: is shown with what it has planned. options: other options of `job`.
    """

    def __init__(self, name: str, *, payload: TypeForm[P], version: int = 1, **options: Any) -> None:
        self.name, self.payload, self.version = name, payload, version
        self.options = {"queue": "io", "no_retry": (MissingValue, ValueError)} | options

    def __call__(self, function: Callable[[P], Pipeline]) -> Kind[P, Any, [Any, P]]:
        def finish(job: Any, payload: P) -> Any:
            return job.planned_result()

        def plan(payload: P) -> Pipeline:
            planned = function(payload).in_order()
            planned.definition = {"version": self.version, "result": planned.result}
            return planned

        finish.__doc__, finish.__module__, finish.__qualname__ = (
            function.__doc__,
            function.__module__,
            function.__qualname__,
        )
        return job(self.name, payload=self.payload, plan=plan, **self.options)(finish)


def step(
    name: str,
    kind: str | Kind[P, Any, ...] | Pipeline,
    payload: P | Mapping[str, Any] | None = None,
    *,
    after: Iterable[str] = (),
    on_failure: OnFailure | None = None,
    **options: Any,
) -> Child:
    """A step of that kind. payload: of the kind's type, or a dict where it takes earlier results by `ref`.

    kind: may be a pipeline, whose steps take the payload by `input_ref`, or a kind that plans one.
    options: priority, max_attempts, when, wait_for, compensate.
    """
    pipeline = None
    if isinstance(kind, Pipeline):
        planned = kind.in_order()
        pipeline = Nested(name=planned.name, steps=list(planned), result=planned.result)
    return Child(
        name=name,
        kind=_name_of(kind),
        pipeline=pipeline,
        payload={} if payload is None else payload,
        after=list(after),
        on_failure=on_failure,
        **options,
    )


def undo(
    kind: str | Kind[P, Any, ...],
    payload: P | Mapping[str, Any] | None = None,
    *,
    max_attempts: int | None = None,
) -> dict[str, Any]:
    """For a step's `compensate`: a job of that kind that undoes it. payload: may take, by `ref`, the result of the
    step, and those of steps that it comes after.
    """
    return {
        "kind": kind if isinstance(kind, str) else kind.name,
        "payload": {} if payload is None else msgspec.to_builtins(payload),
        "max_attempts": max_attempts,
    }


def each(
    name: str,
    kind: str | Kind[P, Any, ...] | Pipeline,
    values: Mapping[str, Any],
    payload: P | Mapping[str, Any] | None = None,
    *,
    max_running: int | None = None,
    **options: Any,
) -> Child:
    """A step that runs for each value of a list of at most 10,000, and returns the list of what each has returned.

    values: a `ref` to the list. payload: may take the value by `item_ref()`, and its place by `index_ref()`; the value
        itself if not given. max_running: how many run at once. options: as of `step`.
    """
    payload = ITS_ITEM if payload is None else payload
    return replace(step(name, kind, payload, **options), each=dict(values), max_running=max_running)


def _name_of(kind: str | Kind[Any, Any, ...] | Pipeline) -> str:
    if isinstance(kind, Pipeline):
        return PIPELINE
    return kind if isinstance(kind, str) else kind.name


def input_ref(*path: str | int, **default: Any) -> dict[str, Any]:
    """Stands, in a pipeline that is a step of another one, for a part of the payload of that step."""
    return ref(INPUT, *path, **default)


def item_ref(*path: str | int, **default: Any) -> dict[str, Any]:
    """Stands for a part of the value of the list that the step runs for."""
    return ref(ITEM, *path, **default)


def index_ref() -> dict[str, Any]:
    """Stands for the place of that value in the list, from 0."""
    return ref(INDEX)


def ref(name: str, *path: str | int, **default: Any) -> dict[str, Any]:
    """Stands, in a payload, for a part of an earlier step's result, and has the step come after that one.

    default=…: taken where there is no such value.
    """
    if default.keys() - {DEFAULT}:
        raise TypeError(f"ref() takes a default besides the path, not {', '.join(default.keys() - {DEFAULT})}.")
    return {FROM: [name, *path], **default}


def signal_ref(*path: str | int, **default: Any) -> dict[str, Any]:
    """Stands for a part of the body of the signal that the step waits for."""
    return ref(SIGNAL, *path, **default)


def group(*parts: Child | Pipeline) -> Pipeline:
    """The parts side by side."""
    return Pipeline().add(*parts)


def chain(*parts: Child | Pipeline) -> Pipeline:
    """The parts one after the other: what begins a part comes after all that ends the one before.

    Raises ValueError for large groups next to each other.
    """
    chained = Pipeline()
    lasts: list[str] = []
    for given in parts:
        part = Pipeline(steps=_steps_of(given))
        firsts = set(part.firsts)
        if len(firsts) * len(lasts) > MAX_DEPENDENCIES:
            raise ValueError(
                f"A group of {len(firsts):,} steps cannot come after each of {len(lasts):,} others: put a step "
                "between the groups."
            )
        chained.add(*(replace(one, after=[*one.after, *lasts]) if one.name in firsts else one for one in part))
        lasts = part.lasts
    return chained


def _referred_to(child: Child) -> list[str]:
    try:
        return list(rows.referred_to(child))
    except BadReference as error:
        pointer = f"/steps/{escaped(child.name)}{error.pointer}"
        raise BadGraph([Problem(pointer, "reference", str(error))]) from None


def _steps_of(part: Child | Pipeline) -> list[Child]:
    return [part] if isinstance(part, Child) else list(part)
