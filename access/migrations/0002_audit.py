"""The audit trail, and the trigger that keeps it as it was written."""

import django.core.serializers.json
import django.db.models.functions.datetime
from django.db import migrations, models

KEEP_AUDIT = """
CREATE FUNCTION access_keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.keep_until <= statement_timestamp() THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'The audit trail is kept as it was written; entry % until %.', OLD.id, coalesce(OLD.keep_until, 'infinity')
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER access_keep_audit BEFORE UPDATE OR DELETE ON access_auditentry
FOR EACH ROW EXECUTE FUNCTION access_keep_audit();
"""
FORGET_KEEP_AUDIT = """
DROP TRIGGER access_keep_audit ON access_auditentry;
DROP FUNCTION access_keep_audit();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("access", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "actor",
                    models.CharField(
                        blank=True,
                        help_text="The username, or on the command line the system's user; empty: anonymous.",
                        max_length=150,
                    ),
                ),
                (
                    "token",
                    models.CharField(
                        blank=True, help_text="The token's first characters, if there was one.", max_length=25
                    ),
                ),
                ("address", models.GenericIPAddressField(help_text="Of the connection.", null=True)),
                (
                    "via",
                    models.CharField(
                        choices=[
                            ("api", "the API"),
                            ("admin", "the admin"),
                            ("command", "the command line"),
                            ("system", "Muster itself"),
                        ],
                        max_length=7,
                    ),
                ),
                ("action", models.CharField(help_text="What was changed, and how: job.cancel.", max_length=50)),
                ("object_id", models.CharField(blank=True, max_length=150)),
                ("object_name", models.CharField(blank=True, max_length=200)),
                ("before", models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, null=True)),
                ("after", models.JSONField(encoder=django.core.serializers.json.DjangoJSONEncoder, null=True)),
                (
                    "keep_until",
                    models.DateTimeField(help_text="It is kept at least until then; None: forever.", null=True),
                ),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["actor", "-id"], name="audit_by_actor"),
                    models.Index(fields=["action", "-id"], name="audit_by_action"),
                    models.Index(fields=["object_id", "-id"], name="audit_by_object"),
                    models.Index(fields=["at"], name="audit_by_time"),
                    models.Index(fields=["keep_until"], name="audit_by_end"),
                ],
            },
        ),
        migrations.RunSQL(KEEP_AUDIT, FORGET_KEEP_AUDIT),
    ]
