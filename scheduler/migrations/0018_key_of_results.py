"""The primary key of results begins with the task, by which they are looked for."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import orchestrator.ids
import scheduler.fields

REPLACE = """
ALTER TABLE "scheduler_taskresult" DROP CONSTRAINT "scheduler_taskresult_pkey",
ADD CONSTRAINT "scheduler_taskresult_pkey" PRIMARY KEY USING INDEX "{index}"
"""


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0017_index_of_results_by_task"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            # A key of several columns cannot be given to a model that has another.
            state_operations=[
                migrations.DeleteModel("TaskResult"),
                migrations.CreateModel(
                    name="TaskResult",
                    fields=[
                        (
                            "created_at",
                            models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                        ),
                        (
                            "updated_at",
                            models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                        ),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "task_id", "id", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("id", models.UUIDField(default=orchestrator.ids.uuid7, editable=False)),
                        ("result", scheduler.fields.ExactField(decimal_places=324, max_digits=355)),
                        (
                            "task",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="results",
                                to="scheduler.task",
                            ),
                        ),
                    ],
                    options={
                        "ordering": ["-id"],
                        "indexes": [models.Index(fields=["task", "-id"], name="result_by_task")],
                    },
                ),
            ],
            database_operations=[
                migrations.RunSQL(REPLACE.format(index="result_key"), REPLACE.format(index="result_by_id")),
            ],
        ),
    ]
