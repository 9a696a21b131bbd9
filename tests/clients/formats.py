"""Texts for Schemathesis to make requests of, where a pattern alone does not say what is accepted.

They fire after each start in schemathesis.toml, and before each end there.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import schemathesis
from hypothesis import strategies

ADD = "scheduler.add"
# What only goes with a rule that has times of day, as one of days has; a text alone does not tell.
MOVES = ("next", "previous")
CONFLICTS = ("return", "replace", "postpone", "refuse")

CRONS = (
    "* * * * *",
    "*/15 8-18 * * MON-FRI",
    "0 12 1 jan,JUL *",
    "30 22-2/2 * * 5L",
    " 0 0\tLW * ? ",
    "0 0 */100,1-7 * MON",
    "@daily",
)
RRULES = (
    "FREQ=DAILY",
    "RRULE:FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17;BYMINUTE=0;BYSECOND=0",
    "interval=2;freq=weekly;byday=MO,WE;wkst=SU",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    "EXDATE:20300131T120000Z\nRRULE:FREQ=HOURLY;COUNT=10000",
)
# Of a day there would have to be something that is due then.
MOMENTS = ("2030-12-24T09:00:00Z", "2031-02-28t23:59:59.5-12:00", "2030-12-24T09:00")

schemathesis.openapi.format("moment", strategies.sampled_from(MOMENTS))
schemathesis.openapi.format("calendar", strategies.just("kept"))
schemathesis.openapi.format("cron", strategies.sampled_from(CRONS))
schemathesis.openapi.format("rrule", strategies.sampled_from(RRULES))


def is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


def is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100


def is_unique(value: Any) -> bool:
    checks: dict[str, Callable[[Any], bool]] = dict.fromkeys(
        ("for_seconds", "wait_seconds", "max_wait_seconds"), is_seconds
    )
    checks |= {"key": is_name, "fields": is_names, "on_conflict": CONFLICTS.__contains__}
    return isinstance(value, dict) and all(name in checks and checks[name](part) for name, part in value.items())


def is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2_678_400


def is_names(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 20 and all(map(is_name, value))


def schedule_that_fits(body: dict[str, Any]) -> dict[str, Any]:
    """With what goes together. No dictionary in schemathesis.toml does that in the phase that tries every value."""
    if body.get("on_closed") in MOVES and not body.get("every_x_days"):
        body = body | {"on_closed": "skip"}
    if body.get("overlap", "allow") == "allow" and body.get("max_running", 1) != 1:
        body = body | {"overlap": "queue"}
    if is_name(body.get("kind")) and body["kind"] != ADD:
        return body | {"kind": "demo.slices", "payload": {}}
    return body


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """What no schema can say: no notification that could be named, few kinds, fields of a payload."""
    if not isinstance(body, dict):
        return body
    for field in ("notify", "on_failure"):
        named = body.get(field)
        if isinstance(named, list) and all(map(is_id, named)):
            body = body | {field: []}
    if is_unique(body.get("unique")):
        body = body | {"unique": {"key": "the same"}}
    return body


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """What no schema can say of a whole body. This is called in the phase that tries every value, too."""
    if case.operation.path.startswith("/task-schedules/") and isinstance(case.body, dict):
        case.body = schedule_that_fits(case.body)
    return case
