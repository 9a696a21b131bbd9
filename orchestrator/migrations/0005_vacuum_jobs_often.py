"""Each job leaves a dead entry where the claim looks first, so the table is vacuumed often. See decision 14."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0004_indexes_of_retention"),
    ]

    operations = [
        migrations.RunSQL(
            """
            ALTER TABLE "orchestrator_job"
            SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000)
            """,
            'ALTER TABLE "orchestrator_job" RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)',
        ),
    ]
