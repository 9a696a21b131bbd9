"""Functions that complete a leased job whose handler has used its transaction, and clean its session. See decision 84."""

from django.db import migrations

# Completes a leased job; returns whether it has. In PL/pgSQL, which keeps the plan, also in a session that is cleaned:
# PostgreSQL takes as long to plan the statement as to run it. The status is disguised, and sequential scans are off, or
# else a plan from a quiet time would read all that runs.
COMPLETE = """
CREATE FUNCTION orchestrator_complete(
    of_job uuid, of_attempt integer, with_result jsonb, done bigint, total bigint, message text,
    transaction_began bigint
) RETURNS boolean LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    UPDATE orchestrator_job
    SET status = 'COMPLETED',
        result = with_result,
        error = '',
        worker_id = NULL,
        deadline_at = NULL,
        progress_done = done,
        progress_total = total,
        progress_message = message,
        finished_at = clock_timestamp(),
        updated_at = clock_timestamp()
    WHERE id = of_job AND status || '' = 'RUNNING' AND attempt = of_attempt
      AND (transaction_began IS NULL OR transaction_began = (extract(epoch FROM now()) * 1000000)::bigint);
    RETURN FOUND;
END $$
"""

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
            COMPLETE, "DROP FUNCTION orchestrator_complete(uuid, integer, jsonb, bigint, bigint, text, bigint)"
        ),
        migrations.RunSQL(DEALLOCATE, "DROP FUNCTION orchestrator_deallocate()"),
    ]
