"""The steps of a pipeline, as code and clients write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Child:
    """A step of a pipeline. It starts once every step named in `after`, listed before it, has completed.

    payload: may take parts of earlier steps' results: {"$from": "step.key"}; see docs/pipelines.md.
    on_failure: when it has failed for good, with "continue" what comes after it goes on, and its pipeline completes;
        with "compensate" the pipeline fails, and the compensations of its completed steps run; with "fail" it fails
        and stays as it is. If not given: "compensate" where any step of the pipeline has a compensation, else "fail".
    compensate: what undoes it: {"kind": …, "payload": …}; the payload may take its result, by its own name.
    when: a condition on earlier steps; if it does not hold, the step is skipped.
    wait_for: the name of a signal that has to come before it starts, or an object that says more of it.
    each: a reference to a list; it runs for each value there, which its payload takes by {"$from": "$item"}, and its
        result is the list of theirs.
    max_running: how many of those run at once; all if not given.
    kind: may be one that plans a pipeline. Its steps are planned, and added, when the step's turn has come.
    pipeline: the steps, where the kind is "pipeline.run".
    """

    name: str
    kind: str
    payload: Any = field(default_factory=dict)
    after: Sequence[str] = ()
    priority: int | None = None
    max_attempts: int | None = None
    on_failure: Literal["fail", "continue", "compensate"] | None = None
    when: Any = None
    wait_for: Any = None
    each: Any = None
    max_running: int | None = None
    compensate: Any = None
    pipeline: Nested | None = None


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A pipeline that is a step of another one, written out.

    steps: each after what it comes after. Their payloads take that of the step by {"$from": "$input"}.
    result: what it returns, with references to its steps' results.
    """

    steps: Sequence[Child]
    result: Any = None
    name: str = ""
