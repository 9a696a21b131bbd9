"""Functions in the database that move jobs. They keep the plans of their statements, also in cleaned sessions.

Each is as a migration creates it: for one that changes there is another constant, and another migration.
"""

# Completes a leased job; returns whether it has. PostgreSQL takes as long to plan the statement as to run it. The
# status is disguised, and sequential scans are off, or else a plan from a quiet time would read all that runs.
COMPLETE_1 = """
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
