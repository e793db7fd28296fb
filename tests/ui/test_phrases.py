"""Every code that the daemon shows has words, the same in the terminal and on the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import base.ui
from base.execution.refusals import BlockedWhy
from base.model.market import MarketStatus
from base.model.rules import ExitReason, HoldReason
from base.model.schedule import PauseWhy
from base.risk.coverage import NOT_CHECKED, NOT_COUNTED
from base.ui.phrases import PAUSES, PHRASES, pause_text, says, unprotected_text
from base.ui.terminal_tables import NOT_COUNTED as NOT_COUNTED_BY_TERMINAL

VERDICTS = Path(base.ui.__file__).with_name("verdicts.js").read_text(encoding="utf-8")
_ENTRY = re.compile(r'^  (\w+): "([^"\\]*)",$', re.MULTILINE)

SETTLED = [f"market_{status.value}" for status in MarketStatus if not status.can_still_trade]
ENDINGS = ["filled", "flat", "flipped", "position_changed", "price_left", "superseded", *SETTLED]
"""How an exit ends (`exit_steps.py`), which no enum lists."""
CODES = {
    *(reason.value for reason in HoldReason),
    *(reason.value for reason in ExitReason),
    *(why.value for why in BlockedWhy),
    NOT_CHECKED,
    *ENDINGS,
}


def on_the_page() -> dict[str, str]:
    table = VERDICTS[VERDICTS.index("const REASONS = {") :]
    return dict(_ENTRY.findall(table[: table.index("};")]))


def test_every_code_has_a_phrase_and_no_phrase_is_left_over() -> None:
    assert PHRASES.keys() == CODES


def test_the_page_says_the_same() -> None:
    assert on_the_page() == {code: phrase.says for code, phrase in PHRASES.items()}


def test_every_ending_of_an_exit_is_known_here() -> None:
    source = Path(base.ui.__file__).parents[1] / "execution" / "exit_steps.py"
    told = set(re.findall(r'self\._close\(episode, "(\w+)"', source.read_text(encoding="utf-8")))
    assert len(told) >= 3
    assert told <= set(ENDINGS)


def test_every_pause_has_words() -> None:
    assert PAUSES.keys() == {why.value for why in PauseWhy}
    assert pause_text("weekly") == "weekly maintenance"
    assert pause_text("solar_flare") == "solar flare"


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_phrase_is_words_for_people(code: str) -> None:
    assert "_" not in says(code).replace("EXIT_FLOOR_DOLLARS", "")
    assert len(says(code)) <= 70, "it stands in a cell"
    assert says(code)[-1] not in ".;:"


@pytest.mark.parametrize(
    "code",
    ["no_rule", "no_price", "stale_price", "no_bid", "below_floor", "crossed", "paused", "closed", "not_open",
     NOT_CHECKED, "halted", *(why.value for why in BlockedWhy)],
)  # fmt: skip
def test_what_leaves_a_position_bare_says_what_to_do(code: str) -> None:
    assert PHRASES[code].to_do
    assert unprotected_text(code) == f"{says(code)}; {PHRASES[code].to_do}"


def test_a_code_of_a_newer_kind_is_shown_as_it_is() -> None:
    assert says("solar_flare") == unprotected_text("solar_flare") == "solar flare"
    assert says("\x1b[2J") == "�[2J"
    assert says(None) == "–"


def test_all_readers_agree_on_what_is_left_bare_on_purpose() -> None:
    assert set(NOT_COUNTED_BY_TERMINAL) == NOT_COUNTED
    on_page = re.search(r"const NOT_COUNTED = \[(.*)\];", VERDICTS)
    assert on_page is not None
    assert set(re.findall(r'"(\w+)"', on_page[1])) == NOT_COUNTED
