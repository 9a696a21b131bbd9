"""What a schedule submits, as it is checked before it is stored: numbers to add, or a kind of job with its payload."""

from __future__ import annotations

from orchestrator.kinds import Kind, kind_named, kind_open_to_clients
from orchestrator.pg_values import NotFinite, as_json
from orchestrator.submission import BadSubmission
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence

# The columns that say what is submitted.
WORK = {"kind", "payload", "a", "b", "operation"}
# A tick reads the payloads of hundreds of schedules at once.
MAX_PAYLOAD_BYTES = 100_000

NOT_BOTH = "Give either kind and payload, or the numbers to add: a and b, or operation."


def check_work(schedule: TaskSchedule, *, trusted: bool = False) -> None:
    """Raises BadRecurrence, UnknownKind, InternalKind, BadPayload or BadSubmission for a schedule that could not
    submit what it says.

    trusted: whether code says so, which may also submit what clients may not.
    """
    if schedule.adds:
        _check_operands(schedule)
        return
    if given := [name for name in ("a", "b") if getattr(schedule, name) is not None]:
        raise BadRecurrence(given[0], NOT_BOTH, *given[1:])
    kind = kind_named(schedule.kind) if trusted else kind_open_to_clients(schedule.kind)
    if schedule.payload is None:
        schedule.payload = {}
    _check_payload(kind, schedule.payload)


def _check_operands(schedule: TaskSchedule) -> None:
    if schedule.payload is not None:
        raise BadRecurrence("payload", "Give the kind of job that it is for; numbers to add are a and b.")
    if missing := [name for name in ("a", "b") if getattr(schedule, name) is None]:
        raise BadRecurrence(missing[0], "Give kind and payload, or a and b, or operation.", *missing[1:])


def _check_payload(kind: Kind, payload: object) -> None:
    """As a submission would, since it is submitted as it is."""
    kind.read_payload(payload)
    try:
        as_json(payload, at_most=MAX_PAYLOAD_BYTES)
    except NotFinite as error:
        raise BadSubmission(f"/payload{error.pointer}", "not_finite", str(error)) from None
    except (TypeError, ValueError) as error:
        raise BadSubmission("/payload", "not_storable", f"The payload cannot be stored: {error}") from None
