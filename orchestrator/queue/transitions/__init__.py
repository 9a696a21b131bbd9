"""The moves of `states.MOVES`: every statement that writes a job's status, a verb for each move, and nothing else.

Each statement is guarded by what it moves from, so of two who would move a job at once one finds nothing to move. What
else a move means, for its attempt and its pipeline, is the business of `endings` and `pipelines`.
"""

from orchestrator.queue.transitions.cancelling import (
    cancel,
    cancel_pipeline,
    cancel_some_unstarted_children,
    cancel_unstarted,
    cancel_unstarted_children,
    fail_pipeline,
    unstarted_children,
)
from orchestrator.queue.transitions.completing import complete, complete_locked, complete_together, wait_for_children
from orchestrator.queue.transitions.failing import Ending, fail, fail_unresolved, hand_back, retry_later
from orchestrator.queue.transitions.passing import Counted, count_down, skip, take_over
from orchestrator.queue.transitions.reopening import priority_step, reopen, reopen_compensations
from orchestrator.queue.transitions.starting import Claim, claim, hand_back_unstarted, start_parent

__all__ = [
    "Claim",
    "Counted",
    "Ending",
    "cancel",
    "cancel_pipeline",
    "cancel_some_unstarted_children",
    "cancel_unstarted",
    "cancel_unstarted_children",
    "claim",
    "complete",
    "complete_locked",
    "complete_together",
    "count_down",
    "fail",
    "fail_pipeline",
    "fail_unresolved",
    "hand_back",
    "hand_back_unstarted",
    "priority_step",
    "reopen",
    "reopen_compensations",
    "retry_later",
    "skip",
    "start_parent",
    "take_over",
    "unstarted_children",
    "wait_for_children",
]
