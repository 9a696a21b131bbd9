"""The check of a graph as a whole, before anything is stored: every problem with a pointer to it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from orchestrator.graphs import compensations, conditions, each, references, waits
from orchestrator.graphs.compensations import Compensation
from orchestrator.graphs.each import INDEX, ITEM, ITS_ITEM
from orchestrator.graphs.nesting import INPUT, MAX_DEPTH, PIPELINE
from orchestrator.graphs.references import FROM, BadReference, Reference, escaped
from orchestrator.graphs.waits import SIGNAL
from orchestrator.kind_problems import BadPayload, InternalKind, Problem, UnknownKind
from orchestrator.kinds import MAX_ATTEMPTS, Kind, known_kind
from orchestrator.kinds import kind_open_to_clients as open_kind
from orchestrator.pipeline_steps import Child, Nested

MAX_STEPS = 10_000
# All that the steps come after, together.
MAX_DEPENDENCIES = 100_000
# Problems of one graph that are told.
MAX_PROBLEMS = 100
STEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
# Steps of a circle that are named.
MAX_NAMED = 10


class BadGraph(Exception):
    """A graph that could never run as asked."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems[:MAX_PROBLEMS]
        super().__init__(f"{problems[0].pointer}: {problems[0].detail}")


class PipelineSpec(msgspec.Struct, forbid_unknown_fields=True):
    """A pipeline that is a step, as a client writes it."""

    steps: dict[str, Any]
    name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    result: Any = msgspec.UNSET


class StepSpec(msgspec.Struct, forbid_unknown_fields=True):
    """A step as a client writes it: of a kind, or a pipeline itself."""

    kind: Annotated[str, msgspec.Meta(max_length=100)] = ""
    pipeline: PipelineSpec | None = None
    payload: Any = msgspec.UNSET
    after: Annotated[list[str], msgspec.Meta(max_length=MAX_STEPS)] = []
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)] | None = None
    on_failure: Literal["fail", "continue", "compensate"] | None = None
    when: Any = None
    wait_for: Any = None
    each: Any = None
    max_running: Annotated[int, msgspec.Meta(ge=1)] | None = None
    compensate: Compensation | None = None

    def __post_init__(self) -> None:
        if self.payload is msgspec.UNSET:
            self.payload = {} if self.each is None else ITS_ITEM
        if (self.pipeline is None) is (self.kind == ""):
            raise ValueError("Give a kind, or a pipeline")

    @property
    def own_names(self) -> set[str]:
        """What references in its payload may name beside steps."""
        return self.names_of_item if self.wait_for is None else self.names_of_item | {SIGNAL}

    @property
    def names_of_item(self) -> set[str]:
        return set() if self.each is None else {ITEM, INDEX}


@dataclass
class _Place:
    """Where in what a client asks for a graph is. counted: the steps of all graphs so far, of which this is one."""

    pointer: str = ""
    depth: int = 1
    counted: list[int] = field(default_factory=lambda: [0])

    @property
    def names(self) -> set[str]:
        """What references may name beside steps."""
        return {INPUT} if self.pointer else set()

    def within(self, pointer: str) -> _Place:
        """That of a graph which is a step of this one. Raises BadGraph if it is too deep."""
        if self.depth >= MAX_DEPTH:
            detail = f"Pipelines can be steps of others in at most {MAX_DEPTH} generations."
            raise BadGraph([Problem(pointer, "too_deep", detail)])
        return _Place(pointer, self.depth + 1, self.counted)

    def count(self, steps: int) -> None:
        """Raises BadGraph if they are none, or too many in all."""
        self.counted[0] += steps
        if steps == 0 or self.counted[0] > MAX_STEPS:
            given = f"{steps:,}" if steps == self.counted[0] else f"{self.counted[0]:,} with those of other pipelines"
            raise BadGraph([Problem(f"{self.pointer}/steps", "count", f"Give 1 to {MAX_STEPS:,} steps, not {given}.")])


class Graph(NamedTuple):
    """The steps in an order in which each comes after what it waits for, and what the pipeline returns."""

    steps: list[Child]
    result: Any


def checked(steps: Mapping[str, Any], result: Any = msgspec.UNSET) -> Graph:
    """The graph that a client asks for. Raises BadGraph.

    result: may have references to all steps; if not given, what the last step returns, if a single one is last.
    """
    return _checked(steps, result, _Place())


def _checked(steps: Mapping[str, Any], result: Any, place: _Place) -> Graph:
    place.count(len(steps))
    problems: list[Problem] = []
    specs: dict[str, StepSpec] = {}
    after: dict[str, list[str]] = {}
    nested: dict[str, Nested] = {}
    for name, given in steps.items():
        pointer = f"{place.pointer}/steps/{escaped(name)}"
        spec = _read(name, given, pointer, problems)
        if spec is not None:
            specs[name] = spec
            after[name] = list(_waits_for(name, spec, steps, place, problems))
            if spec.pipeline is not None and (graph := _within(spec.pipeline, place, pointer, problems)):
                nested[name] = Nested(name=spec.pipeline.name, steps=graph.steps, result=graph.result)
    problems += _unknown(result, steps, place) if result is not msgspec.UNSET else ()
    if sum(map(len, after.values())) > MAX_DEPENDENCIES:
        detail = f"They may name {MAX_DEPENDENCIES:,} steps in all as earlier."
        problems.append(Problem(f"{place.pointer}/steps", "too_many", detail))
    if problems:
        raise BadGraph(problems)
    order = in_order(after, place.pointer)
    if result is msgspec.UNSET:
        result = of_last(after)
    return Graph([_child(name, specs[name], after[name], nested.get(name)) for name in order], result)


def _within(given: PipelineSpec, place: _Place, pointer: str, problems: list[Problem]) -> Graph | None:
    try:
        return _checked(given.steps, given.result, place.within(f"{pointer}/pipeline"))
    except BadGraph as error:
        problems += error.problems
        return None


def _read(name: str, given: Any, pointer: str, problems: list[Problem]) -> StepSpec | None:
    if not STEP_NAME.fullmatch(name):
        detail = "A step's name has 1 to 100 letters, digits, hyphens and underscores."
        problems.append(Problem(pointer, "name", detail))
        return None
    try:
        spec = msgspec.convert(given, StepSpec)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        place = re.sub(r"[.\[]", "/", path.rstrip("`").replace("]", ""))
        problems.append(Problem(pointer + place, "invalid", f"{detail}."))
        return None
    problems += _of_items(name, spec, pointer)
    if spec.pipeline is None:
        problems += _of_payload(spec.kind, spec.payload, pointer)
    if spec.compensate is not None:
        problems += _of_compensation(spec.compensate, f"{pointer}/compensate")
        if len(name) > compensations.MAX_NAME_CHARACTERS:
            at_most = compensations.MAX_NAME_CHARACTERS
            problems.append(Problem(pointer, "name", f"With a compensation it has at most {at_most} characters."))
    return spec


def _of_payload(kind: str, payload: Any, pointer: str) -> list[Problem]:
    try:
        _check_payload(open_kind(kind), payload)
    except (UnknownKind, InternalKind, BadPayload, BadReference) as error:
        return _moved(error, pointer)
    return []


def _of_compensation(compensation: Compensation, pointer: str) -> list[Problem]:
    kind = known_kind(compensation.kind)
    if kind is not None and kind.plan:
        detail = f"{kind.name!r} is a pipeline, which cannot compensate a step."
        return [Problem(f"{pointer}/kind", "nested", detail)]
    return _of_payload(compensation.kind, compensation.payload, pointer)


def _of_items(name: str, spec: StepSpec, pointer: str) -> Iterator[Problem]:
    if spec.each is None:
        if spec.max_running is not None:
            yield Problem(f"{pointer}/max_running", "invalid", "Only a step with `each` runs many times.")
    elif len(name) > each.MAX_NAME_CHARACTERS:
        detail = f"The name of a step with `each` has at most {each.MAX_NAME_CHARACTERS} characters."
        yield Problem(pointer, "name", detail)


def _moved(error: UnknownKind | InternalKind | BadPayload | BadReference, pointer: str) -> list[Problem]:
    if isinstance(error, BadReference):
        return [Problem(f"{pointer}{error.pointer}", "reference", str(error))]
    return [one._replace(pointer=pointer + one.pointer) for one in error.problems]


def _check_payload(kind: Kind, payload: Any) -> None:
    """What of a payload can be known before its references are resolved. Raises BadPayload or BadReference."""
    if not any(True for _ in references.found(payload, "/payload")):
        kind.read_payload(references.resolved(payload, {}))
    elif isinstance(payload, dict) and FROM not in payload:
        type_: Any = kind.payload_type
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
            _check_fields(type_, payload)


def _check_fields(type_: type[msgspec.Struct], payload: dict[str, Any]) -> None:
    """The fields without references, and whether those that are needed are there."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    known = {name: value for name, value in payload.items() if references.is_plain(value)}
    later = payload.keys() - known
    partial = msgspec.defstruct(
        type_.__name__,
        [
            (field.name, Any if name in later else field.type, *_default(field, name in later))
            for name, field in fields.items()
        ],
        kw_only=True,
        rename={field.name: name for name, field in fields.items()},
        forbid_unknown_fields=type_.__struct_config__.forbid_unknown_fields,
    )
    try:
        msgspec.convert(known | dict.fromkeys(later), partial)
    except msgspec.ValidationError as error:
        raise BadPayload(error) from None


def _default(field: Any, is_later: bool) -> tuple[Any, ...]:
    if is_later or field.required:
        return ()
    if field.default_factory is not msgspec.NODEFAULT:
        return (msgspec.field(default_factory=field.default_factory),)
    return (field.default,)


def _waits_for(
    name: str, spec: StepSpec, steps: Mapping[str, Any], at: _Place, problems: list[Problem]
) -> dict[str, None]:
    """The steps that it comes after: those it lists, and those whose results it takes. Each once, in order."""
    pointer = f"{at.pointer}/steps/{escaped(name)}"
    listed = dict.fromkeys(spec.after)
    for position, earlier in enumerate(spec.after):
        if earlier not in steps:
            problems.append(_no_such_step(f"{pointer}/after/{position}", earlier, steps))
    try:
        for place, reference in _references(spec):
            if reference.step in at.names or (reference.step in spec.own_names and place.startswith("/payload")):
                continue
            if place.startswith("/compensate") and (reference.step == name or reference.step in spec.names_of_item):
                continue
            if reference.step in steps:
                listed[reference.step] = None
            else:
                problems.append(_no_such_step(pointer + place, reference.step, steps))
    except BadReference as error:
        problem = Problem(f"{pointer}{error.pointer}", "reference", str(error))
        if problem not in problems:
            problems.append(problem)
    return listed


def _references(spec: StepSpec) -> Iterator[tuple[str, Reference]]:
    yield from references.found(spec.payload, "/payload")
    if spec.when is not None:
        yield from conditions.found(spec.when, "/when")
    if spec.each is not None:
        yield "/each", each.reference(spec.each)
    if spec.wait_for is not None:
        waits.read(spec.wait_for)
    if spec.compensate is not None:
        yield from references.found(spec.compensate.payload, "/compensate/payload")


def _unknown(result: Any, steps: Mapping[str, Any], at: _Place) -> Iterator[Problem]:
    try:
        for place, reference in references.found(result, f"{at.pointer}/result"):
            if reference.step not in steps and reference.step not in at.names:
                yield _no_such_step(place, reference.step, steps)
    except BadReference as error:
        yield Problem(error.pointer, "reference", str(error))


def _no_such_step(pointer: str, name: str, steps: Mapping[str, Any]) -> Problem:
    near = difflib.get_close_matches(name, steps, n=1) if len(steps) <= 1_000 else []
    advice = f" Did you mean {near[0]!r}?" if near else ""
    return Problem(pointer, "unknown_step", f"There is no step {name!r:.120}.{advice}")


def in_order(after: Mapping[str, Sequence[str]], pointer: str = "") -> list[str]:
    """The steps in an order in which each comes after those that are listed for it. Raises BadGraph for a circle.

    pointer: where in a request they are.
    """
    try:
        return list(TopologicalSorter(after).static_order())
    except CycleError as error:
        circle: list[str] = error.args[1]
        shown = " → ".join(circle if len(circle) <= MAX_NAMED else [*circle[:MAX_NAMED], "…"])
        place = f"{pointer}/steps/{escaped(circle[0])}/after"
        raise BadGraph([Problem(place, "cycle", f"These steps wait for each other: {shown}.")]) from None


def of_last(after: Mapping[str, Sequence[str]]) -> Any:
    """What the last step returns, as a reference; None if several are last."""
    last = after.keys() - {name for names in after.values() for name in names}
    return {FROM: list(last)} if len(last) == 1 else None


def _child(name: str, spec: StepSpec, after: list[str], nested: Nested | None) -> Child:
    return Child(
        name=name,
        kind=spec.kind if nested is None else PIPELINE,
        pipeline=nested,
        payload=spec.payload,
        after=after,
        priority=spec.priority,
        max_attempts=spec.max_attempts,
        on_failure=spec.on_failure,
        when=spec.when,
        wait_for=spec.wait_for,
        each=spec.each,
        max_running=spec.max_running,
        compensate=None if spec.compensate is None else msgspec.to_builtins(spec.compensate),
    )
