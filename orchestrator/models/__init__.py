"""The tables of the engine, a module for each thing they are about. Elsewhere they are imported from here."""

from orchestrator.models.attempts import Attempt as Attempt
from orchestrator.models.attempts import AttemptLog as AttemptLog
from orchestrator.models.attempts import Checkpoint as Checkpoint
from orchestrator.models.jobs import Job as Job
from orchestrator.models.kinds import Kind as Kind
from orchestrator.models.kinds import PausedQueue as PausedQueue
from orchestrator.models.notifications import Delivery as Delivery
from orchestrator.models.notifications import Notification as Notification
from orchestrator.models.pipelines import Dependency as Dependency
from orchestrator.models.pipelines import Signal as Signal
from orchestrator.models.pipelines import Step as Step
from orchestrator.models.rates import RateStart as RateStart
from orchestrator.models.rates import RateWait as RateWait
from orchestrator.models.requests import BulkBatch as BulkBatch
from orchestrator.models.requests import IdempotencyKey as IdempotencyKey
from orchestrator.models.rollups import Backlog as Backlog
from orchestrator.models.rollups import HeldBack as HeldBack
from orchestrator.models.rollups import Rollup as Rollup
from orchestrator.models.rollups import Total as Total
from orchestrator.models.turns import Arrival as Arrival
from orchestrator.models.turns import OwnerShare as OwnerShare
from orchestrator.models.turns import Turn as Turn
from orchestrator.models.workers import Upkeep as Upkeep
from orchestrator.models.workers import Worker as Worker
