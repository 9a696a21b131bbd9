"""`manage.py token`: makes a token for the API and prints it, once; lists tokens, and revokes them."""

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from access import audit, tokens
from access.tokens import BadToken, Scope
from orchestrator.management.base import OperatorCommand


class Command(OperatorCommand):
    help = "Creates a token for a user and prints it once: only its hash is stored."

    def add_arguments(self, parser: CommandParser) -> None:
        default, most = settings.ENV.TOKEN_DEFAULT_DAYS, settings.ENV.TOKEN_MAX_DAYS
        parser.add_argument(
            "username", nargs="?", help="The token's user; with --list and --revoke, only that user's tokens."
        )
        parser.add_argument("--name", default="", help="A name that says what it is for.")
        parser.add_argument(
            "--days",
            type=float,
            default=default,
            help=f"Days until it expires (default {default:g}, at most {most:g}).",
        )
        parser.add_argument(
            "--scope",
            choices=Scope.values,
            default=Scope.MANAGE,
            help="read: only read; submit: also submit work; manage (the default): all that the user may do.",
        )
        parser.add_argument(
            "--read-only", dest="scope", action="store_const", const=Scope.READ, help="The same as --scope read."
        )
        parser.add_argument(
            "--create", action="store_true", help="Create the user, without a password, if it does not exist."
        )
        parser.add_argument("--list", action="store_true", help="List the tokens by their first characters.")
        parser.add_argument(
            "--revoke", metavar="BEGINNING", help="Revoke the token with these first characters, as --list shows them."
        )

    @audit.by_command()
    def handle(self, *args: Any, **options: Any) -> None:
        if options["list"]:
            self._list(options["username"])
        elif options["revoke"] is not None:
            self._revoke(options["username"], options["revoke"])
        elif options["username"]:
            self._create(options)
        else:
            raise CommandError("Name the user: manage.py token USERNAME.")

    @transaction.atomic
    def _create(self, options: dict[str, Any]) -> None:
        try:
            row, token = tokens.create_token(
                self._user(options), name=options["name"], scope=Scope(options["scope"]), days=options["days"]
            )
        except BadToken as error:
            raise CommandError(str(error)) from None
        self.stdout.write(token)
        self.stderr.write(
            f"It expires on {row.expiry:%Y-%m-%d %H:%M} UTC; revoke it earlier with --revoke or in the admin."
        )

    def _list(self, username: str | None) -> None:
        for row in tokens.listed(username):
            details = getattr(row, "details", None)
            used = details.last_used_at if details else None
            expires = min(row.expiry or timezone.now() + tokens.max_age(), row.created + tokens.max_age())
            self.stdout.write(
                f"{row.token_key}  {row.user.get_username()}  {tokens.scope_of(row).value}"
                f"  expires {expires:%Y-%m-%d %H:%M}"
                f"  last used {f'{used:%Y-%m-%d %H:%M}' if used else 'never'}"
                f"  {details.name if details else ''}".rstrip()
            )

    def _revoke(self, username: str | None, beginning: str) -> None:
        found = list(tokens.listed(username).filter(token_key__startswith=beginning)) if beginning else []
        if len(found) != 1:
            raise CommandError(f"{len(found) or 'No'} tokens begin with {beginning!r}; --list shows how each begins.")
        tokens.revoke(found[0])
        self.stdout.write(f"Revoked {found[0].token_key} of {found[0].user.get_username()}.")

    def _user(self, options: dict[str, Any]) -> Any:
        users = get_user_model()
        username = options["username"]
        if user := users.objects.filter(username=username).first():
            return user
        if not options["create"]:
            raise CommandError(f"There is no user {username!r}; --create creates one.")
        user = users(username=username)
        user.set_unusable_password()
        try:
            user.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        user.save()
        return user
