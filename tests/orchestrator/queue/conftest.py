"""Kinds of pipelines."""

import pytest

from orchestrator.kinds import Kind
from tests.orchestrator.workbench import DeclareKind


@pytest.fixture
def step(kind: DeclareKind) -> Kind:
    """The kind of children."""
    return kind(max_attempts=1, backoff_seconds=0)


@pytest.fixture
def last(kind: DeclareKind) -> Kind:
    """The kind of parents, so that a test claims children and parents apart."""
    return kind(max_attempts=1, backoff_seconds=0)
