"""The one rule of who may do what: Django's model permissions, in the API as in the admin, and everyone their own.

Where REQUIRE_AUTH is off, everyone may do everything in the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.models import User as DjangoUser
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.db.models import Model, QuerySet

from access.models import Account

User = DjangoUser | AnonymousUser
Row = TypeVar("Row", bound=Model)

# The ORM takes longer to write this than PostgreSQL to answer, and to plan a join takes that twice as long.
OWNER_NAMED = """
SELECT owner FROM access_account WHERE user_id = (SELECT id FROM auth_user WHERE username = %s)
"""
# What permission to change a row does not cover.
APART = ("add", "delete", "change")


class NotPermitted(PermissionDenied):
    """The user may see it, but not do that to it."""

    def __init__(self, permission: str, why: str = "") -> None:
        """why: a sentence on what it is that requires the permission, where that is not plain."""
        needed = f"This requires the permission {permission}, which you do not have."
        super().__init__(f"{why} {needed}".lstrip())


class UnknownOwner(Exception):
    """Work can be submitted for users only."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no user {name!r}; work can only be submitted for existing users.")


def is_granted(user: User, permission: str) -> bool:
    """Whether Django's permissions give it: "app.verb_model". The permission to change a row covers whatever else is
    done to it, but for deleting it.
    """
    if not user.is_active or not getattr(user, "has_grants", True):
        return False
    if getattr(user, "is_superuser", False):
        return True
    app, _, codename = permission.partition(".")
    verb, _, model = codename.partition("_")
    wanted = {permission} if verb in APART else {permission, f"{app}.change_{model}"}
    return not wanted.isdisjoint(user.get_all_permissions())


def may(user: User, permission: str) -> bool:
    """Whether the API lets the user do that to everyone's rows."""
    return not settings.ENV.REQUIRE_AUTH or is_granted(user, permission)


def require_granted(user: User, *permissions: str) -> None:
    """Raises NotPermitted for the first of the permissions that the user lacks."""
    for permission in permissions:
        if not may(user, permission):
            raise NotPermitted(permission)


def require(user: User, owner: str, permission: str) -> None:
    """Raises NotPermitted where something that the user may see is not theirs to do this to."""
    if owner != _own(user):
        require_granted(user, permission)


def visible(rows: QuerySet[Row], user: User, *, owner: str = "owner") -> QuerySet[Row]:
    """Those of the rows that the user may see; `owner` is the column that says whose they are."""
    params = visibility_params(user, rows.model)
    if params["sees_everything"]:
        return rows
    return rows.none() if params["owner"] is None else rows.filter(**{owner: params["owner"]})


def require_visible(user: User, model: type[Model], id: UUID, *, to: str = "") -> None:
    """Raises the model's DoesNotExist for a row that is not there as far as the user may know, and NotPermitted for
    another's if the user lacks the permission `to` do something to it.
    """
    owner = visible(model._default_manager.all(), user).values_list("owner", flat=True).get(pk=id)
    if to:
        require(user, owner, to)


def is_visible(table: str) -> str:
    """The same as SQL, for a statement with the parameters `visibility_params(user, model)`."""
    return f"(%(sees_everything)s OR {table}.owner = %(owner)s)"


def visibility_params(user: User, model: type[Model]) -> dict[str, Any]:
    """The rule of who sees which rows: everyone's with the permission to view them, else the user's own."""
    return {"sees_everything": may(user, view_permission(model)), "owner": _own(user)}


def view_permission(model: type[Model]) -> str:
    return f"{model._meta.app_label}.view_{model._meta.model_name}"


# Names of owners


def owner_of(user: User) -> str:
    """What stands in the `owner` columns of the user's rows; empty for nobody."""
    return _own(user) or ""


def _own(user: User) -> str | None:
    """None for nobody, who has no rows: those submitted while REQUIRE_AUTH was off are not theirs."""
    return user.account.owner if user.is_authenticated else None


def owner_to_submit_for(user: User, name: str) -> str:
    """The owner of work submitted for the user of that name.

    Raises NotPermitted for another's name, or UnknownOwner. Where REQUIRE_AUTH is off there need be no such user.
    """
    if user.is_authenticated and name in (user.get_username(), owner_of(user)):
        return owner_of(user)
    require_granted(user, "orchestrator.submit_for_others", "orchestrator.view_job")
    owner = owner_named(name)
    if owner is None and settings.ENV.REQUIRE_AUTH:
        raise UnknownOwner(name)
    return owner or name


def owner_named(username: str) -> str | None:
    """The owner that the user of that name is; None if there is no such user."""
    with connection.cursor() as cursor:
        cursor.execute(OWNER_NAMED, [username])
        row = cursor.fetchone()
    return row and str(row[0])


def with_owners(user: User, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters with the name of an owner, or of who did something, as those whom it means."""
    found = dict(filters)
    for column in ("owner", "actor"):
        if (name := found.pop(column, None)) is not None:
            found[f"{column}__in"] = owners_named(user, name)
    return found


def owners_named(user: User, name: str) -> list[str]:
    """Whom someone who looks for an owner means: the user of that name, or the owner that is called so."""
    if user.is_authenticated and name == user.get_username():
        return [owner_of(user)]
    if not may(user, "orchestrator.view_job"):
        return [name]
    renamed = Account.objects.filter(user__username=name).exclude(owner=name)
    return [name, *renamed.values_list("owner", flat=True)]
