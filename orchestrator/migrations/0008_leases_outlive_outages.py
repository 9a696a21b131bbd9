"""Leases run by a clock that knows no outage, and a worker that was given up tells what is known of its end."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0007_permissions"),
    ]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="noted_seconds",
            field=models.FloatField(db_default=0, help_text="What the clock of leases showed at that time."),
        ),
        migrations.AddField(
            model_name="worker",
            name="noted_seen_at",
            field=models.DateTimeField(help_text="The last renewal that a tick has seen.", null=True),
        ),
        migrations.AddField(
            model_name="worker",
            name="ran",
            field=models.IntegerField(db_default=0, help_text="How many jobs it ran when it was given up."),
        ),
        migrations.AddField(
            model_name="worker",
            name="silent",
            field=models.BooleanField(
                db_default=False, help_text="It was given up because it was not heard from; it may have lived."
            ),
        ),
        migrations.AlterField(
            model_name="job",
            name="runs_alone",
            field=models.BooleanField(
                db_default=False, help_text="A worker died while it ran in a batch, so it runs alone from now on."
            ),
        ),
    ]
