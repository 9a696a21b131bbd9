"""Unfinished jobs of scheduled tasks learn which schedule theirs is, so that the overlap policies still see them."""

from django.db import migrations

LEARN = """
UPDATE orchestrator_job AS job SET schedule_id = task.schedule_id
FROM scheduler_task AS task
WHERE job.kind = 'scheduler.add' AND job.status IN ('CREATED', 'RUNNING') AND job.schedule_id IS NULL
  AND task.job_id = job.id AND task.schedule_id IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0010_queued_occurrences"),
        ("orchestrator", "0029_indexes_of_scheduled_jobs"),
    ]

    operations = [
        migrations.RunSQL(LEARN, migrations.RunSQL.noop),
    ]
