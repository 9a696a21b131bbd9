"""Queues that are paused, and kinds that are paused with them."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0024_rates"),
    ]

    operations = [
        migrations.CreateModel(
            name="PausedQueue",
            fields=[
                ("name", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("paused_at", models.DateTimeField(db_default=Now())),
            ],
            options={
                "permissions": [("pause_queue", "Can pause and resume queues")],
                "default_permissions": (),
            },
        ),
        migrations.AddField(
            model_name="kind",
            name="paused_with_queue",
            field=models.BooleanField(db_default=False, help_text="Paused only because its queue is."),
        ),
    ]
