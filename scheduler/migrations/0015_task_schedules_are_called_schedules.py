"""What the admin calls them."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0014_on_failure"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="taskschedule",
            options={
                "permissions": [
                    ("pause_taskschedule", "Can pause and resume schedules"),
                    ("run_taskschedule", "Can run schedules now and backfill them"),
                ],
                "verbose_name": "schedule",
            },
        ),
    ]
