"""Functions that complete a leased job whose handler has used its transaction, and clean its session. See decision 84."""

from django.db import migrations

from orchestrator.queue.transitions.functions import COMPLETE_1

# Prepared statements that are not the worker's own.
DEALLOCATE = """
CREATE FUNCTION orchestrator_deallocate() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    foreign_name text;
BEGIN
    FOR foreign_name IN SELECT name FROM pg_prepared_statements WHERE NOT starts_with(name, 'muster_') LOOP
        EXECUTE format('DEALLOCATE %I', foreign_name);
    END LOOP;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0059_charge_plans_once"),
    ]

    operations = [
        migrations.RunSQL(
            COMPLETE_1, "DROP FUNCTION orchestrator_complete(uuid, integer, jsonb, bigint, bigint, text, bigint)"
        ),
        migrations.RunSQL(DEALLOCATE, "DROP FUNCTION orchestrator_deallocate()"),
    ]
