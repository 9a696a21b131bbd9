"""`manage.py token`: makes a token for the API and prints it, once."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from knox.models import AuthToken

from config.api import READ_ONLY_PREFIX


class Command(BaseCommand):
    help = "Makes a token for a user and prints it: only its hash is kept, so it is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--days", type=float, default=30, help="When it expires (default: in 30 days).")
        parser.add_argument("--read-only", action="store_true", help="It may look, and not submit, cancel or retry.")
        parser.add_argument(
            "--create", action="store_true", help="Make the user, without a password, if there is none."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not 0 < options["days"] <= 3_650:
            raise CommandError("A token lives more than 0 and at most 3650 days.")
        expiry = timedelta(days=options["days"])
        prefix = READ_ONLY_PREFIX if options["read_only"] else ""
        row, token = AuthToken.objects.create(self.user(options), expiry=expiry, prefix=prefix)
        self.stdout.write(token)
        self.stderr.write(f"It expires on {row.expiry:%Y-%m-%d %H:%M} UTC; the admin can revoke it before.")

    def user(self, options: dict[str, Any]) -> Any:
        users = get_user_model()
        username = options["username"]
        if user := users.objects.filter(username=username).first():
            return user
        if not options["create"]:
            raise CommandError(f"There is no user {username!r}; --create makes one.")
        user = users(username=username)
        user.set_unusable_password()
        try:
            user.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        user.save()
        return user
