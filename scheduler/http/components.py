"""Components of the OpenAPI document that drf-spectacular cannot see: new tasks, and each form of a schedule."""

from __future__ import annotations

from typing import Any

from scheduler.http.new_tasks import MAX_TASKS
from scheduler.http.numbers import OPERAND_SCHEMA, OPERATION_SCHEMA
from scheduler.http.schedule_serializers import RECURRENCES
from scheduler.models import ADD
from scheduler.recurrence import cron, rrule
from scheduler.recurrence.clocks import zone_names
from scheduler.recurrence.cron import any_case
from scheduler.services.work import WORK

_PRIORITY_SCHEMA = {
    "type": ["integer", "null"],
    "minimum": 0,
    "maximum": 9,
    "default": 5,
    "description": "0 is the most urgent, 9 the least.",
}


def _object(required: list[str], description: str, /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def _either(*names: str) -> dict[str, Any]:
    return {"oneOf": [_component(name) for name in names]}


def _component(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


# The bodies that are read by functions, each part a component, since generated clients call it by that name.
BODIES: dict[str, dict[str, Any]] = {
    "NumbersToAdd": _object(
        ["a", "b"],
        "Two numbers to add.",
        a=OPERAND_SCHEMA,
        b=OPERAND_SCHEMA,
        operation={"type": "null"},
        priority=_PRIORITY_SCHEMA,
    ),
    "OperationToAdd": _object(
        ["operation"], "Two numbers to add, in one string.", operation=OPERATION_SCHEMA, priority=_PRIORITY_SCHEMA
    ),
    "NewTask": _either("NumbersToAdd", "OperationToAdd"),
    "TaskList": {"type": "array", "minItems": 1, "maxItems": MAX_TASKS, "items": _component("NewTask")},
    "NamedTaskList": _object(["tasks"], "The list in an object.", tasks=_component("TaskList")),
    "TaskBatch": _either("TaskList", "NamedTaskList"),
}
NEW_TASK, BATCH = _component("NewTask"), _component("TaskBatch")

_NULL = {"type": "null"}
_KIND = {"type": "string", "minLength": 1, "maxLength": 100, "not": {"const": ADD}, "example": "demo.slices"}
_ADDS = {"kind": {"enum": [ADD, None]}, "payload": _NULL}
# What a schedule submits: what of it has to be there, and what else may be.
_WORK: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Numbers": ({"a": OPERAND_SCHEMA, "b": OPERAND_SCHEMA}, {"operation": _NULL, **_ADDS}),
    "Operation": ({"operation": OPERATION_SCHEMA}, {"a": _NULL, "b": _NULL, **_ADDS}),
    "Job": (
        {"kind": _KIND},
        {"payload": {}, "a": _NULL, "b": _NULL, "operation": _NULL},
    ),
}
_NO_WORK: tuple[dict[str, Any], dict[str, Any]] = ({}, {"operation": _NULL})
# That a rule ever fires, and which of its parts go together, are rules beyond JSON Schema.
_CRON = {
    "type": "string",
    "format": "cron",
    "pattern": rf"^[ \t]*({cron.PATTERN})[ \t]*$",
    "example": "*/15 8-18 * * MON-FRI",
}
_RRULE = {
    "type": "string",
    "format": "rrule",
    "pattern": rf"^([\s\S]*[;:\n])?{any_case('FREQ')}=({'|'.join(map(any_case, rrule.STEPS))})([;\s][\s\S]*)?$",
    "example": "FREQ=MONTHLY;BYDAY=-1FR",
}
# Which recurrence a schedule has: what of it has to be there. Whatever else makes another one is null.
_RECURRENCES: dict[str, dict[str, dict[str, Any]]] = {
    "Interval": {"interval": {"type": "integer"}},
    "Days": {"every_x_days": {"type": "integer", "minimum": 1}},
    "Hours": {"every_x_hours": {"type": "integer", "minimum": 1}},
    "Cron": {"cron": _CRON},
    "RRule": {"rrule": _RRULE},
}
# What may stand beside it: days and hours are one recurrence, and the hours alone are that without days.
_BESIDE: dict[str, dict[str, dict[str, Any]]] = {
    "Days": {"every_x_hours": {}},
    "Hours": {"every_x_days": {"type": ["integer", "null"], "maximum": 0}},
}


def publish_bodies(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Makes them components of the OpenAPI document, and of every form of a schedule one."""
    schemas = result["components"]["schemas"]
    schemas |= BODIES
    _publish_time_zone(schemas)
    known = schemas["TaskScheduleBodyRequest"]
    for name in ("cron", "rrule"):
        # The pattern says what is valid; the number of characters alone does not.
        del known["properties"][name]["maxLength"]
    known["properties"]["scheduled_at"]["example"] = "2030-01-01T00:00:00Z"
    known["properties"]["ends_at"]["example"] = "2031-01-01T00:00:00Z"
    _publish_forms(schemas, known)
    return result


def _publish_time_zone(schemas: dict[str, Any]) -> None:
    # No enum: of GMT+0 and GMT-0 generators of clients would make one name.
    names = "|".join(zone_names()).replace("+", r"\+")
    schemas["TimeZone"] = {"type": "string", "pattern": f"^({names})$"}
    for name in ("TaskScheduleBodyRequest", "TaskSchedulePreviewBodyRequest", "PatchedTaskScheduleBodyRequest"):
        described = schemas[name]["properties"]["timezone"]
        schemas[name]["properties"]["timezone"] = {
            "allOf": [_component("TimeZone")],
            "default": described["default"],
            "description": described["description"],
        }


def _publish_forms(schemas: dict[str, Any], known: dict[str, Any]) -> None:
    """Makes each form of a schedule, of a preview and of a change a component, and their bodies any of these."""
    forms = {
        f"{recurrence}ScheduleOf{name}": _form(known, recurrence, work)
        for recurrence in _RECURRENCES
        for name, work in _WORK.items()
    }
    previews = {f"{recurrence}SchedulePreview": _form(known, recurrence, _NO_WORK) for recurrence in _RECURRENCES}
    changes = {
        f"{recurrence}ChangeOf{name}": _form(known, recurrence, work, is_change=True)
        for recurrence in ("", *_RECURRENCES)
        for name, work in _WORK.items()
    }
    schemas |= forms | previews | changes
    wholes = {
        "TaskScheduleBodyRequest": forms,
        "TaskSchedulePreviewBodyRequest": previews | forms,
        "PatchedTaskScheduleBodyRequest": changes,
    }
    for whole, parts in wholes.items():
        schemas[whole] = {
            "description": schemas[whole]["description"],
            "anyOf": [_component(part) for part in parts],
        }


def _form(
    known: dict[str, Any],
    recurrence: str,
    work: tuple[dict[str, Any], dict[str, Any]],
    *,
    is_change: bool = False,
) -> dict[str, Any]:
    """The body of a schedule as the serializer has it, with that recurrence and that work alone.

    A change need not say what is submitted, and without a recurrence it leaves that as it is.
    """
    required = _RECURRENCES.get(recurrence, {})
    beside = _BESIDE.get(recurrence, {})
    needed, allowed = work
    others = sorted(RECURRENCES - required.keys() - beside.keys())
    properties = {
        name: schema | required.get(name, {}) | beside.get(name, {})
        for name, schema in known["properties"].items()
        if name not in (*others, *WORK)
    }
    properties |= dict.fromkeys(others, _NULL) if recurrence else {}
    described = {"description": known["properties"]["payload"]["description"]}
    given = {name: schema or described for name, schema in (needed | allowed).items()}
    return _object([*([] if is_change else needed), *required], known["description"], **given, **properties)
