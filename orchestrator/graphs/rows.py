"""What is stored of a step beside its job's columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from django.conf import settings

from orchestrator.graphs import conditions, each, references, waits
from orchestrator.graphs.each import INDEX, ITEM
from orchestrator.graphs.references import BadReference as BadReference
from orchestrator.graphs.waits import SIGNAL
from orchestrator.kinds import Child, kind_named
from orchestrator.pg_values import as_json


def is_template(child: Child) -> bool:
    """Whether its payload depends on earlier results."""
    if child.each is not None:
        return True
    return not references.is_plain(child.payload) and any(True for _ in references.found(child.payload))


def literal(payload: Any) -> Any:
    """A payload without references as it is meant."""
    return payload if references.is_plain(payload) else references.resolved(payload, {})


def referred_to(child: Child) -> Iterator[str]:
    """The steps that its payload, its condition and its list are about. Raises BadReference."""
    if not references.is_plain(child.payload):
        for pointer, reference in references.found(child.payload, "/payload"):
            if reference.step in (ITEM, INDEX):
                if child.each is None:
                    raise BadReference(pointer, "This step does not run for each value of a list.")
            elif reference.step != SIGNAL:
                yield reference.step
            elif child.wait_for is None:
                raise BadReference(pointer, "This step waits for no signal.")
    if child.each is not None:
        yield each.reference(child.each).step
    if child.when is not None:
        yield from (reference.step for _, reference in conditions.found(child.when, "/when"))


def step_of(child: Child, *, is_unresolved: bool) -> dict[str, Any] | None:
    """The columns of its Step; None if it needs none. Raises BadReference for what cannot be stored."""
    each_value = _each(child)
    if not is_unresolved and child.on_failure == "fail" and child.wait_for is None:
        return None
    if child.on_failure not in ("fail", "continue"):
        raise BadReference("/on_failure", f'Give "fail" or "continue", not {child.on_failure!r:.100}.')
    for pointer, value in (("/payload", child.payload), ("/when", child.when)):
        try:
            as_json(value, at_most=settings.ENV.MAX_BODY_BYTES)
        except (TypeError, ValueError) as error:
            raise BadReference(pointer, f"It cannot be stored: {error}") from None
    return {
        "payload": msgspec.to_builtins(child.payload) if is_template(child) else None,
        "each": each_value,
        "condition": child.when,
        "on_failure": child.on_failure,
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
    }


def waiting(wait_for: Any) -> dict[str, Any]:
    """The columns of a Step that say what it waits for. Raises BadReference."""
    if wait_for is None:
        return {}
    wait = waits.read(wait_for)
    return {"signal": wait.signal, "wait": msgspec.to_builtins(wait)}
