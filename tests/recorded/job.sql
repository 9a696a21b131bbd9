INSERT INTO orchestrator_job (
    id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies,
    run_at, rank, ready
)
VALUES (
    %s, 'demo.slices', 'io', 'ada', 5, '{"slices": 1, "seconds_per_slice": 0}', 3, NULL, '', 0,
    statement_timestamp(), statement_timestamp() + interval '300 seconds', true
)
