"""The primary key of arrivals begins with the kind, by which the claim looks for them."""

from django.db import migrations, models

REPLACE = """
ALTER TABLE "orchestrator_arrival" DROP CONSTRAINT "orchestrator_arrival_pkey",
ADD CONSTRAINT "orchestrator_arrival_pkey" PRIMARY KEY USING INDEX "arrival_key"
"""
# The index goes with the constraint that it has become.
RESTORE = """
ALTER TABLE "orchestrator_arrival" DROP CONSTRAINT "orchestrator_arrival_pkey",
ADD CONSTRAINT "orchestrator_arrival_pkey" PRIMARY KEY ("id")
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0056_index_of_arrivals_by_kind"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            # A key of several columns cannot be given to a model that has another.
            state_operations=[
                migrations.DeleteModel("Arrival"),
                migrations.CreateModel(
                    name="Arrival",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "kind", "id", blank=True, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("id", models.BigIntegerField(help_text="In their order; PostgreSQL gives it.")),
                        ("kind", models.CharField(max_length=100)),
                        ("owner", models.CharField(blank=True, max_length=150)),
                    ],
                    options={
                        "default_permissions": (),
                        "indexes": [models.Index(fields=["kind", "id"], name="arrival_by_kind")],
                    },
                ),
            ],
            database_operations=[migrations.RunSQL(REPLACE, RESTORE)],
        ),
    ]
