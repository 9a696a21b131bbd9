"""How much more what owners have set up, such as schedules, may submit for them: see `client_limits`.

Nobody asks at that moment, so it is the owner who is held to the limits of clients, but for owners with the permission
to exceed them. Owners that never were users of the API are names that code gives, which is not asked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection

from access.models import Account
from orchestrator.client_limits import PERMISSION
from orchestrator.kinds import Kind
from orchestrator.queue import kind_limits
from orchestrator.stored_bytes import stored_bytes_of

# Who asks the permissions of rows, as those who are logged in.
BACKEND = "django.contrib.auth.backends.ModelBackend"

# Of owners, how many unfinished jobs each has who has any: all together, since PostgreSQL would estimate each by the
# mean of all owners, and so might read the table for each.
UNFINISHED = """
SELECT owner, count(*) FROM orchestrator_job
WHERE owner = ANY(%(owners)s) AND owner <> '' AND parent_id IS NULL AND status IN ('CREATED', 'RUNNING')
GROUP BY owner
"""
# The same of a kind. Jobs without an owner are counted where their kind has such a limit.
UNFINISHED_OF_KIND = """
SELECT owner, count(*) FROM orchestrator_job
WHERE kind = %(kind)s AND owner = ANY(%(owners)s) AND owner <> '' AND parent_id IS NULL
  AND status IN ('CREATED', 'RUNNING')
GROUP BY owner
UNION ALL
SELECT '', count(*) FROM orchestrator_job
WHERE kind = %(kind)s AND '' = ANY(%(owners)s) AND owner = '' AND limited AND parent_id IS NULL
  AND status IN ('CREATED', 'RUNNING')
"""


@dataclass
class Left:
    """What an owner may still have: unfinished jobs, and bytes stored for them."""

    jobs: int
    stored_bytes: int


def left_of_owners(owners: Collection[str]) -> dict[str, Left]:
    """Of those of the owners whom limits hold: by few statements, however many they are."""
    held = _held_to_limits(owners)
    if not held:
        return {}
    most, most_bytes = settings.ENV.CLIENT_MAX_UNFINISHED, settings.ENV.CLIENT_MAX_STORED_BYTES
    with connection.cursor() as cursor:
        cursor.execute(UNFINISHED, {"owners": held})
        unfinished = dict(cursor.fetchall())
    # Nothing is stored for those who have no jobs.
    stored = stored_bytes_of(unfinished)
    return {owner: Left(most - unfinished.get(owner, 0), most_bytes - stored.get(owner, 0)) for owner in held}


def _held_to_limits(owners: Collection[str]) -> list[str]:
    """Also whose user is gone, or may not log in."""
    named = set(owners) - {""}
    if not named or not settings.ENV.REQUIRE_AUTH:
        return []
    exempt = User.objects.with_perm(PERMISSION, backend=BACKEND)
    return list(Account.objects.filter(owner__in=named).exclude(user__in=exempt).values_list("owner", flat=True))


def left_in_kind(kind: Kind, owners: Collection[str]) -> dict[str, int] | None:
    """How many unfinished jobs more of the kind each of the owners may have; None: as many as they like."""
    most = kind_limits.limits_of(kind).max_unfinished_per_owner
    if most is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(UNFINISHED_OF_KIND, {"kind": kind.name, "owners": list(owners)})
        unfinished = dict(cursor.fetchall())
    return {owner: most - unfinished.get(owner, 0) for owner in owners}
