"""The function that charges turns looks up those whom it charges, whatever statistics say. See decision 75."""

from django.db import migrations

CHARGE = """
CREATE OR REPLACE FUNCTION orchestrator_charge_turns(
    of_kind text, owners text[], used_seconds float[], is_served boolean, middle integer, priority_step float
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off
SET plan_cache_mode = force_generic_plan AS $$ BEGIN
WITH used AS MATERIALIZED (
    SELECT of_kind AS kind, owner, seconds FROM unnest(owners, used_seconds) AS _ (owner, seconds)
), seen AS MATERIALIZED (
    SELECT used.owner, used.seconds, turn.version, next.priority, coalesce(share.weight, 1) AS weight,
           next.priority IS NULL OR share.paused_at IS NOT NULL AS idle
    FROM used {turn}
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
WHERE turn.id = locked.id {which}; END $$
"""
JOINED = {
    "turn": "JOIN orchestrator_turn AS turn ON turn.kind = used.kind AND turn.owner = used.owner",
    "which": "",
}
# By statistics of a table that had no owners, and has now, PostgreSQL reads all turns of the kind to join them.
LOOKED_UP = {
    "turn": """CROSS JOIN LATERAL (
        SELECT version FROM orchestrator_turn WHERE kind = used.kind AND owner = used.owner LIMIT 1
    ) AS turn""",
    "which": "AND turn.id = ANY(ARRAY(SELECT id FROM locked))",
}


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0061_cap_is_a_function"),
    ]

    operations = [migrations.RunSQL(CHARGE.format(**LOOKED_UP), CHARGE.format(**JOINED))]
