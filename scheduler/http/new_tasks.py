"""New tasks as clients send them. They may come by ten thousand, so functions read them, not serializers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from orchestrator.client_limits import NO_LIMITS, ClientLimits, priorities_allowed
from orchestrator.http.fields import as_integer
from orchestrator.http.requests import BadInput, unknown_problems
from orchestrator.kind_problems import Problem
from scheduler.http.numbers import NO_NUMBER, NOT_BOTH, read_operand, read_operation
from scheduler.services.tasks import NewTask

MAX_TASKS = 10_000
# Invalid tasks of a batch that are listed one by one.
MAX_ERRORS_SHOWN = 1_000

TASK_FIELDS = {"a", "b", "operation", "priority"}


@dataclass
class Batch:
    """The good tasks of a batch with their places in it, and what is wrong with the others."""

    tasks: list[NewTask] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_task(data: Any, *, owner: str, limits: ClientLimits = NO_LIMITS) -> NewTask:
    """A task from what a client sent; raises BadInput with all that is wrong with it."""
    if type(data) is not dict:
        raise BadInput("", [Problem("", "invalid", 'A task is an object, such as {"a": 1.5, "b": 2}.')])
    unknown = data.keys() - TASK_FIELDS
    problems = unknown_problems(unknown, sorted(TASK_FIELDS)) if unknown else []
    a = b = Decimal(0)
    operation = data.get("operation")
    if operation is None:
        a, b = _operand(data, "a", problems), _operand(data, "b", problems)
        operation = ""
    elif "a" in data or "b" in data:
        problems.append(Problem("/operation", "invalid", NOT_BOTH))
    else:
        try:
            operation, a, b = read_operation(operation)
        except ValueError as error:
            problems.append(Problem("/operation", "invalid", str(error)))
    priority = as_integer(data.get("priority"))
    if priority is None:
        priority = 5
    elif type(priority) is not int or not 0 <= priority <= 9:
        problems.append(Problem("/priority", "out_of_range", "An integer from 0 (most urgent) to 9."))
    elif priority not in limits.priorities:
        problems.append(Problem("/priority", "client_limit", priorities_allowed(limits)))
    if problems:
        raise BadInput("", problems)
    return NewTask(a=a, b=b, operation=operation, priority=priority, owner=owner)


def read_batch(body: Any, *, owner: str, limits: ClientLimits = NO_LIMITS) -> Batch:
    """A batch of tasks from what a client sent; raises BadInput for anything else. A bad task is listed once,
    by what is first wrong with it.
    """
    is_bare = isinstance(body, list)
    pointer, items = ("", body) if is_bare else ("/tasks", body.get("tasks") if isinstance(body, dict) else None)
    if not isinstance(items, list):
        raise BadInput("", [Problem(pointer, "invalid", 'Send a list of tasks, bare or as {"tasks": […]}.')])
    if not is_bare and len(body) > 1:
        raise BadInput("", unknown_problems(body.keys() - {"tasks"}, ["tasks"]))
    if not 1 <= len(items) <= MAX_TASKS:
        raise BadInput("", [Problem(pointer, "out_of_range", f"Send 1 to {MAX_TASKS:,} tasks, not {len(items):,}.")])
    batch = Batch()
    for index, item in enumerate(items):
        try:
            batch.tasks.append(read_task(item, owner=owner, limits=limits))
            batch.indexes.append(index)
        except BadInput as error:
            first = error.problems[0]
            batch.problems.append(first._replace(pointer=f"{pointer}/{index}{first.pointer}"))
    return batch


def truncate_errors(problems: Sequence[Problem], *, of: int) -> list[Problem]:
    """The problems of a batch, cut short where they are many."""
    if len(problems) <= MAX_ERRORS_SHOWN:
        return list(problems)
    cut = f"{len(problems):,} of {of:,} tasks are invalid; only the first {MAX_ERRORS_SHOWN:,} are listed."
    return [*problems[:MAX_ERRORS_SHOWN], Problem("", "and_more", cut)]


def _operand(data: dict[str, Any], name: str, problems: list[Problem]) -> Decimal:
    if data.get(name) is None:
        problems.append(Problem(f"/{name}", "required", f"Give a and b, or operation. {NO_NUMBER}"))
        return Decimal(0)
    try:
        return read_operand(data[name])
    except ValueError as error:
        problems.append(Problem(f"/{name}", "invalid", str(error)))
        return Decimal(0)
