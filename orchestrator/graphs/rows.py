"""What is stored of a step beside its job's columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from django.conf import settings

from orchestrator.graphs import compensations, conditions, each, nesting, references, waits
from orchestrator.graphs.each import INDEX, ITEM
from orchestrator.graphs.references import BadReference as BadReference
from orchestrator.graphs.waits import SIGNAL
from orchestrator.kind_problems import BadPayload
from orchestrator.kinds import kind_named, known_kind
from orchestrator.pg_values import as_json
from orchestrator.pipeline_steps import Child

NO_ITEMS = "This step does not run for each value of a list."
# What a step's failure may mean for its pipeline.
ON_FAILURE = ("fail", "continue", "compensate")


def is_template(child: Child) -> bool:
    """Whether its payload depends on earlier results."""
    if child.each is not None:
        return True
    return not references.is_plain(child.payload) and any(True for _ in references.found(child.payload))


def literal(payload: Any) -> Any:
    """A payload without references as it is meant."""
    return payload if references.is_plain(payload) else references.resolved(payload, {})


def referred_to(child: Child) -> Iterator[str]:
    """The steps that its payload, its condition, its list and its compensation are about. Raises BadReference."""
    if not references.is_plain(child.payload):
        yield from _referred_to_by_payload(child)
    if child.each is not None:
        yield each.reference(child.each).step
    if child.when is not None:
        yield from (reference.step for _, reference in conditions.found(child.when, "/when"))
    if child.compensate is not None:
        yield from _referred_to_by_compensation(child)


def _referred_to_by_payload(child: Child) -> Iterator[str]:
    for pointer, reference in references.found(child.payload, "/payload"):
        if reference.step in (ITEM, INDEX):
            if child.each is None:
                raise BadReference(pointer, NO_ITEMS)
        elif reference.step != SIGNAL:
            yield reference.step
        elif child.wait_for is None:
            raise BadReference(pointer, "This step waits for no signal.")


def _referred_to_by_compensation(child: Child) -> Iterator[str]:
    payload = compensations.read(child.compensate).payload
    for pointer, reference in references.found(payload, "/compensate/payload"):
        if reference.step not in (ITEM, INDEX, child.name):
            yield reference.step
        elif child.each is None and reference.step != child.name:
            raise BadReference(pointer, NO_ITEMS)


def step_of(child: Child, *, is_unresolved: bool, usual: str = "fail") -> dict[str, Any] | None:
    """The columns of its Step, if its payload is that of its job; None if it needs none. Raises BadReference for what
    cannot be stored.

    usual: what a failure means in its pipeline if the step does not say.
    """
    each_value, compensate = _each(child), _compensate(child)
    on_failure = usual if child.on_failure is None else child.on_failure
    if on_failure not in ON_FAILURE:
        raise BadReference("/on_failure", f"Give one of {', '.join(ON_FAILURE)}, not {on_failure!r:.100}.")
    if not is_unresolved and on_failure == usual and child.wait_for is None and compensate is None:
        return None
    nested = None if child.each is not None else nesting.stored(child, kind_named(child.kind))
    for pointer, value in (
        ("/payload", child.payload), ("/when", child.when), ("/compensate", child.compensate), ("/pipeline", nested)
    ):  # fmt: skip
        try:
            as_json(value, at_most=settings.ENV.MAX_BODY_BYTES)
        except (TypeError, ValueError) as error:
            raise BadReference(pointer, f"It cannot be stored: {error}") from None
    return {
        "payload": msgspec.to_builtins(child.payload) if is_template(child) else None,
        "each": each_value,
        "condition": child.when,
        "on_failure": on_failure,
        "compensate": compensate,
        "nested": nested,
        **waiting(child.wait_for),
    }


def _each(child: Child) -> dict[str, Any] | None:
    """What is stored of a step that runs for each value of a list. Raises BadReference."""
    if child.each is None:
        if child.max_running is not None:
            raise BadReference("/max_running", "Only a step with `each` runs many times.")
        return None
    if len(child.name) > each.MAX_NAME_CHARACTERS:
        raise BadReference("/name", f"With `each` it may have {each.MAX_NAME_CHARACTERS} characters.")
    if child.max_running is not None and child.max_running < 1:
        raise BadReference("/max_running", f"Give at least 1, not {child.max_running!r:.100}.")
    kind = kind_named(child.kind)
    return {
        "list": child.each,
        "kind": kind.name,
        "queue": kind.queue,
        "max_attempts": child.max_attempts or kind.max_attempts,
        "max_running": child.max_running,
        "nested": nesting.stored(child, kind),
    }


def _compensate(child: Child) -> dict[str, Any] | None:
    """What is stored of a step's compensation. Raises BadReference."""
    if child.compensate is None:
        return None
    if len(child.name) > compensations.MAX_NAME_CHARACTERS:
        detail = f"With a compensation it may have {compensations.MAX_NAME_CHARACTERS} characters."
        raise BadReference("/name", detail)
    compensation = compensations.read(child.compensate)
    kind = known_kind(compensation.kind)
    if kind is None:
        raise BadReference("/compensate/kind", f"There is no kind {compensation.kind!r:.100}.")
    if kind.plan:
        raise BadReference("/compensate/kind", f"{kind.name!r} is a pipeline itself, so it cannot compensate a step.")
    if references.is_plain(compensation.payload):
        try:
            kind.read_payload(compensation.payload)
        except BadPayload as error:
            problem = error.problems[0]
            raise BadReference(f"/compensate{problem.pointer}", problem.detail) from None
    return {
        "kind": kind.name,
        "queue": kind.queue,
        "payload": msgspec.to_builtins(compensation.payload),
        "max_attempts": compensation.max_attempts or kind.max_attempts,
    }


def waiting(wait_for: Any) -> dict[str, Any]:
    """The columns of a Step that say what it waits for. Raises BadReference."""
    if wait_for is None:
        return {}
    wait = waits.read(wait_for)
    return {"signal": wait.signal, "wait": msgspec.to_builtins(wait)}
