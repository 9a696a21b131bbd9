"""By what a job is limited, and which limit it waits for. Columns without values take no time."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0021_limits_of_kinds"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="limit_key",
            field=models.CharField(help_text="Its concurrency key: see `job(key=…)`.", max_length=200, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="blocked_by",
            field=models.CharField(
                help_text="The limit it waits for since it was met at a claim; it is not ready.",
                max_length=250,
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="job",
            name="limited",
            field=models.BooleanField(db_default=False, help_text="It counts for limits while it is ready or leased."),
        ),
    ]
