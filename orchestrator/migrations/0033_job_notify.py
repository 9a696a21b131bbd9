"""Jobs name the notifications that their ends are told by."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0032_notifications"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="notify",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.UUIDField(),
                help_text="Notifications that its end is told by, beside those that match it.",
                null=True,
                size=None,
            ),
        ),
    ]
