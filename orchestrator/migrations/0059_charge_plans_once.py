"""The function that charges turns plans its statement once, whoever is charged. See decision 75."""

from django.db import migrations

FUNCTION = "ALTER FUNCTION orchestrator_charge_turns(text, text[], float[], boolean, integer, float)"


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0058_arrivals_have_one_index"),
    ]

    operations = [
        # PostgreSQL takes ten owners for granted in a plan for all values, and would plan for each claim of fewer.
        migrations.RunSQL(
            f"{FUNCTION} SET plan_cache_mode = force_generic_plan",
            f"{FUNCTION} RESET plan_cache_mode",
        ),
    ]
