"""A permission more; nothing changes in the database."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0033_job_notify"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="job",
            options={
                "permissions": [
                    ("cancel_job", "Can cancel jobs"),
                    ("retry_job", "Can retry jobs"),
                    ("reschedule_job", "Can change the priority and the start of jobs"),
                    ("submit_for_others", "Can submit jobs for other users"),
                    ("exceed_client_limits", "Can ask for more than the limits of clients allow"),
                    ("view_payload", "Can see payloads and results of jobs"),
                ]
            },
        ),
    ]
