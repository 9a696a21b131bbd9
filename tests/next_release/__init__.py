"""The orchestrator's migrations as the next release might have them: those there are, a column and an index more."""

from pathlib import Path

from orchestrator import migrations

[_present] = migrations.__path__
__path__.append(_present)

PRESENT = max(path.stem for path in Path(_present).glob("0*.py"))
