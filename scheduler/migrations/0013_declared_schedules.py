"""What code said last of the schedules that it declares."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0012_calendars"),
    ]

    operations = [
        migrations.AddField(
            model_name="taskschedule",
            name="declared",
            field=models.JSONField(
                editable=False, help_text="What code said of it last, if it is declared.", null=True
            ),
        ),
    ]
