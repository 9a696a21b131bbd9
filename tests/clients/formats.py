"""Texts for Schemathesis to make requests of, where a pattern alone does not say what is accepted.

They fire after each start in schemathesis.toml, and before each end there.
"""

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
