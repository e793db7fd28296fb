"""What SIGHUP takes in is told apart from what waits for a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.app.config import load_config
from base.app.reload import reload
from base.app.rules import RulesInForce
from base.log import FIELDS_ATTRIBUTE

WRITTEN = "STOP_LOSS_PCT=20\nSTRATEGY_PATIENCE=3\n"


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """The level that a reload changes is the process's."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


def told_on_reload(directory: Path, caplog: pytest.LogCaptureFixture, edited: str) -> dict[str, str]:
    """Start with `WRITTEN`, edit `.env`, reload; what is said of it, by event."""
    env = directory / ".env"
    env.write_text(WRITTEN, encoding="utf-8")
    env.chmod(0o600)
    running = load_config({}, directory)
    env.write_text(edited, encoding="utf-8")
    assert reload(running, RulesInForce(None, running.default_rule), {}, directory)
    fields = [getattr(record, FIELDS_ATTRIBUTE) for record in caplog.records]
    return {f["event"]: str(f.get("names") or f.get("why") or "") for f in fields}


@pytest.mark.parametrize(
    ("edited", "names"),
    [
        pytest.param(WRITTEN + "RULES_FILE=rules.toml\n", "RULES_FILE", id="a rules file is named"),
        pytest.param("STRATEGY_PATIENCE=3\nSTOP_LOSS_PCT=30\n", "STOP_LOSS_PCT", id="another stop"),
        pytest.param("STOP_LOSS_PCT=20\n", "STRATEGY_PATIENCE", id="a setting of the strategy is gone"),
    ],
)
def test_what_waits_for_a_restart_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, edited: str, names: str
) -> None:
    (tmp_path / "rules.toml").write_text("", encoding="utf-8")
    assert told_on_reload(tmp_path, caplog, edited)["restart_needed"] == names


def test_what_the_next_start_would_refuse_is_said_while_it_still_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = told_on_reload(tmp_path, caplog, WRITTEN + "STOP_LOSS_PCT=200\n")
    assert "STOP_LOSS_PCT" in told["next_start_refused"]
    assert "restart_needed" not in told


def test_what_is_taken_in_at_once_needs_no_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = told_on_reload(tmp_path, caplog, WRITTEN + "LOG_LEVEL=DEBUG\n")
    assert "log_level" in told
    assert "restart_needed" not in told
    assert "rules_loaded" in told
