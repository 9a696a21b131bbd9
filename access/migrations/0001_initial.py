"""Accounts for all users, what is known of tokens, and the triggers that keep both."""

from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

# Every user has an account from the first moment, whoever inserts them.
OPEN_ACCOUNT = """
CREATE FUNCTION access_open_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO access_account (owner, user_id) VALUES (NEW.username, NEW.id) ON CONFLICT (owner) DO NOTHING;
    IF NOT FOUND THEN
        INSERT INTO access_account (owner, user_id) VALUES (left(NEW.username, 125) || '~' || NEW.id, NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER access_open_account AFTER INSERT ON auth_user
FOR EACH ROW EXECUTE FUNCTION access_open_account();
"""
FORGET_OPEN_ACCOUNT = """
DROP TRIGGER access_open_account ON auth_user;
DROP FUNCTION access_open_account();
"""
# An account is nobody else's, ever.
KEEP_ACCOUNT = """
CREATE FUNCTION access_keep_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.owner = OLD.owner AND (NEW.user_id IS NULL OR NEW.user_id = OLD.user_id) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'The account % is kept as it is, so that nobody else gets its work.', OLD.owner
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER access_keep_account BEFORE UPDATE OR DELETE ON access_account
FOR EACH ROW EXECUTE FUNCTION access_keep_account();
"""
FORGET_KEEP_ACCOUNT = """
DROP TRIGGER access_keep_account ON access_account;
DROP FUNCTION access_keep_account();
"""
# Tokens end with the password that could be known to others, and with the user's access.
REVOKE_TOKENS = """
CREATE FUNCTION access_revoke_tokens() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM access_tokendetails USING knox_authtoken WHERE token_id = digest AND user_id = NEW.id;
    DELETE FROM knox_authtoken WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER access_revoke_tokens AFTER UPDATE OF password, is_active ON auth_user FOR EACH ROW
WHEN (OLD.password <> NEW.password OR (OLD.is_active AND NOT NEW.is_active)) EXECUTE FUNCTION access_revoke_tokens();
"""
FORGET_REVOKE_TOKENS = """
DROP TRIGGER access_revoke_tokens ON auth_user;
DROP FUNCTION access_revoke_tokens();
"""
# Whoever is a user now owns what is filed under their name.
GIVE_ACCOUNTS = "INSERT INTO access_account (owner, user_id) SELECT username, id FROM auth_user"

OWNED = (
    "orchestrator_job",
    "orchestrator_idempotencykey",
    "scheduler_task",
    "scheduler_taskschedule",
    "ingestion_record",
)
# The different owners of a table, each found by its index, however many rows it has.
RESERVE = """
WITH RECURSIVE names (owner) AS (
    (SELECT owner::text FROM {table} ORDER BY owner LIMIT 1)
    UNION ALL
    SELECT (SELECT next.owner::text FROM {table} AS next WHERE next.owner > names.owner ORDER BY next.owner LIMIT 1)
    FROM names WHERE names.owner IS NOT NULL
)
INSERT INTO access_account (owner) SELECT owner FROM names WHERE owner <> '' ON CONFLICT DO NOTHING
"""


def reserve_names_of_former_users(apps: Any, schema_editor: Any) -> None:
    """Work of users who were deleted or renamed before goes to no namesake either. Without REQUIRE_AUTH names were free
    text, and whoever is given one later finds what was filed under it.
    """
    if settings.ENV.REQUIRE_AUTH:
        for table in OWNED:
            schema_editor.execute(RESERVE.format(table=table))


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("knox", "0009_extend_authtoken_field"),
        ("orchestrator", "0001_initial"),
        ("scheduler", "0001_initial"),
        ("ingestion", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Account",
            fields=[
                ("owner", models.CharField(max_length=150, primary_key=True, serialize=False)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "user",
                    models.OneToOneField(
                        help_text="None once the user is deleted.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="account",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="TokenDetails",
            fields=[
                (
                    "token",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="details",
                        serialize=False,
                        to="knox.authtoken",
                    ),
                ),
                ("name", models.CharField(blank=True, db_default="", default="", max_length=100)),
                ("last_used_at", models.DateTimeField(null=True)),
            ],
            options={"verbose_name_plural": "token details"},
        ),
        migrations.RunSQL(OPEN_ACCOUNT, FORGET_OPEN_ACCOUNT),
        migrations.RunSQL(KEEP_ACCOUNT, FORGET_KEEP_ACCOUNT),
        migrations.RunSQL(REVOKE_TOKENS, FORGET_REVOKE_TOKENS),
        migrations.RunSQL(GIVE_ACCOUNTS, migrations.RunSQL.noop),
        migrations.RunPython(reserve_names_of_former_users, migrations.RunPython.noop),
    ]
