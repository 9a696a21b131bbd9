"""Texts for Schemathesis to make requests of, where a pattern alone does not say what is accepted.

They fire after each start in schemathesis.toml, and before each end there.
"""

from typing import Any
from uuid import UUID

import schemathesis
from hypothesis import strategies

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

schemathesis.openapi.format("cron", strategies.sampled_from(CRONS))
schemathesis.openapi.format("rrule", strategies.sampled_from(RRULES))


def is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(UUID(value))
    except ValueError:
        return False


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """No notification exists that a job could name, which the schema of its ids cannot say."""
    named = body.get("notify") if isinstance(body, dict) else None
    return body | {"notify": []} if isinstance(named, list) and all(map(is_id, named)) else body
