"""What a type checker tells the users of kinds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# As `make check` has it, or what that has found out of all other files would be found out anew.
AS_CHECKED = {"EXTRA_APPS": "tests.kinds,benchmarks.kinds"}
EXPECTED = re.compile(r"# expected: (?P<code>[\w-]+)$")
ERROR = re.compile(r"^tests/typing/(?P<file>\w+\.py):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$", re.MULTILINE)

# File, line and code of an error.
Error = tuple[str, int, str]


def expected_in(path: Path) -> set[Error]:
    lines = enumerate(path.read_text().splitlines(), start=1)
    return {(path.name, number, found["code"]) for number, line in lines if (found := EXPECTED.search(line))}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_wrong_in_the_use_of_a_kind_is_a_type_error_and_what_is_right_is_none() -> None:
    files = [HERE / "right.py", HERE / "wrong.py"]

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *(str(path.relative_to(HERE.parent.parent)) for path in files)],
        cwd=HERE.parent.parent, env=os.environ | AS_CHECKED, capture_output=True, text=True,
    )  # fmt: skip

    found = {(error["file"], int(error["line"]), error["code"]) for error in ERROR.finditer(checked.stdout)}
    assert found == expected_in(HERE / "wrong.py"), checked.stdout + checked.stderr
    assert len(found) > 10
