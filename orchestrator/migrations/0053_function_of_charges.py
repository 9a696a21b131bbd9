"""The function that counts on owners' clocks what their jobs have used. See decision 75."""

from django.db import migrations

# In plpgsql, since that keeps the plan of the statement, which takes PostgreSQL five times as long as to run it. A plan
# that was made while few owners waited has to do for ten thousand: by their indexes.
CHARGE = """
CREATE FUNCTION orchestrator_charge_turns(
    of_kind text, owners text[], used_seconds float[], is_served boolean, middle integer, priority_step float
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off AS $$ BEGIN
WITH used AS MATERIALIZED (
    SELECT of_kind AS kind, owner, seconds FROM unnest(owners, used_seconds) AS _ (owner, seconds)
), seen AS MATERIALIZED (
    SELECT used.owner, used.seconds, turn.version, next.priority, coalesce(share.weight, 1) AS weight,
           next.priority IS NULL OR share.paused_at IS NOT NULL AS idle
    FROM used JOIN orchestrator_turn AS turn ON turn.kind = used.kind AND turn.owner = used.owner
    LEFT JOIN orchestrator_ownershare AS share ON share.owner = used.owner
    LEFT JOIN LATERAL (
        SELECT priority FROM orchestrator_job WHERE ready AND kind = used.kind AND owner = used.owner
        ORDER BY rank, id LIMIT 1
    ) AS next ON true
), locked AS MATERIALIZED (
    SELECT id, owner FROM orchestrator_turn WHERE kind = of_kind AND owner = ANY(owners)
    ORDER BY owner FOR UPDATE
), last AS MATERIALIZED (
    SELECT turn FROM orchestrator_turn WHERE kind = of_kind ORDER BY turn DESC LIMIT 1
)
UPDATE orchestrator_turn AS turn
SET clock = clock + seen.seconds / seen.weight,
    at = clock + seen.seconds / seen.weight + coalesce((seen.priority - middle) * priority_step, 0),
    served = CASE WHEN is_served THEN clock ELSE served END,
    turn = CASE WHEN is_served THEN (SELECT last.turn + 1 FROM last) ELSE turn.turn END,
    new = new AND NOT is_served,
    idle = CASE WHEN turn.version = seen.version THEN seen.idle ELSE turn.idle END
FROM seen JOIN locked USING (owner)
WHERE turn.id = locked.id; END $$
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0052_steps_that_are_pipelines"),
    ]

    operations = [
        migrations.RunSQL(
            CHARGE, "DROP FUNCTION orchestrator_charge_turns(text, text[], float[], boolean, integer, float)"
        ),
    ]
