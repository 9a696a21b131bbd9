"""Whose jobs were ready before the triggers were there."""

from django.db import migrations

ARRIVED_BEFORE = """
INSERT INTO "orchestrator_arrival" (kind, owner) SELECT DISTINCT kind, owner FROM orchestrator_job WHERE ready
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0040_triggers_of_turns"),
    ]

    operations = [
        migrations.RunSQL(ARRIVED_BEFORE, migrations.RunSQL.noop),
    ]
