"""What is made before the daemon runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.app.loop import make_state_dir
from base.errors import ConfigError


def test_a_state_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="STATE_DIR"):
        make_state_dir(file / "state")
    make_state_dir(tmp_path / "a" / "state")
    assert (tmp_path / "a" / "state").is_dir()
