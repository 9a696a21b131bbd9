"""Secrets that are generated once and kept in files."""

from pathlib import Path

from config.local.secret_files import kept_secret


def test_a_secret_is_generated_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    secrets = {kept_secret(tmp_path / "secret") for _ in range(3)}

    assert len(secrets) == 1
    assert len(secrets.pop()) >= 32
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "secret"]
