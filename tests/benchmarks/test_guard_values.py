"""The table of what guards are worth, on a tape small enough to reckon by hand."""

from __future__ import annotations

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.app.replay import read_tape
from base.model.market import ONE, OutcomeSide
from base.model.position import Position
from base.model.rules import ExitRule
from tests.benchmarks.guard_courses import course_of, entry_points, walk
from tests.benchmarks.guard_values import GUARDS, TAPES, Row, main, measure

D = Decimal
CLOSE = 1_778_478_300.0  # 2026-05-11 01:45 in New York
WINNER, WICK, FALL = (f"KXBTC15M-26MAY11{end}" for end in ("0145-45", "0200-00", "0215-15"))


def frame(ticker: str, at: float, bid: str, ask: str = "0.75") -> dict[str, Any]:
    return {
        "recv_ts": at,
        "type": "ticker",
        "sid": 1,
        "msg": {
            "market_ticker": ticker,
            "yes_bid_dollars": bid,
            "yes_ask_dollars": ask,
            "yes_bid_size_fp": "0.00" if D(bid) == 0 else "50.00",
            "yes_ask_size_fp": "0.00" if D(ask) == 1 else "50.00",
            "ts_ms": round(at * 1000),
        },
    }


# The ask stays where NO is never bid at 0.30 to 0.80, so that only YES is entered, each time at 0.60.
TAPE = [
    frame(WINNER, CLOSE - 600, "0.60"),
    frame(WINNER, CLOSE - 100, "0.95", "0.97"),
    frame(WINNER, CLOSE - 1, "0.99", "1.00"),
    frame(WINNER, CLOSE + 0.3, "0.00", "1.00"),
    frame(WICK, CLOSE + 300, "0.60"),
    frame(WICK, CLOSE + 400, "0.40"),
    frame(WICK, CLOSE + 401, "0.58"),
    frame(WICK, CLOSE + 899, "0.99", "1.00"),
    frame(WICK, CLOSE + 900.3, "0.00", "1.00"),
    frame(FALL, CLOSE + 1_200, "0.60"),
    frame(FALL, CLOSE + 1_300, "0.45"),
    frame(FALL, CLOSE + 1_302, "0.40"),
    frame(FALL, CLOSE + 1_320, "0.10"),
    frame(FALL, CLOSE + 1_799, "0.00", "0.01"),
]
LINES = [json.dumps(row).encode() + b"\n" for row in TAPE]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    measured = measure(LINES, "by hand", entries=4)
    assert {row.stop for row in measured} == {"10 c", "25 %"}
    return {row.rule: row for row in measured if row.stop == "10 c"}  # left at 0.50 or less


# What the winner, the wick and the fall are worth: kept, they settle at 1, 1 and 0.
VALUES = {
    "naive": (-60, -20, -15),
    "plain": (40, -20, -15),
    "shipped": (40, -20, -15),
    "size >= 25": (40, -20, -15),
    "size >= 100": (40, 40, -20),
    "confirm 250 ms": (40, 40, -20),
    "2 updates": (40, 40, -20),
    "wick 5 c, 5 s": (40, 40, -20),
    "wick 10 c, 5 s": (40, 40, -20),
    "spread <= 3 c": (40, 40, -20),
    "spread <= 6 c, 30 s": (40, 40, -50),
}


@pytest.mark.parametrize(("rule", "cents"), VALUES.items(), ids=VALUES)
def test_a_rule_is_worth_what_a_hand_reckons(rows: dict[str, Row], rule: str, cents: tuple[int, ...]) -> None:
    row = rows[rule]
    assert (row.positions, row.clusters) == (3, 3)
    assert row.value[0] == pytest.approx(sum(cents) / 3)
    assert row.value[1:] == pytest.approx((min(cents), max(cents))), "three markets: all of them may be one"
    for other, difference in (("naive", row.to_naive), ("plain", row.to_plain)):
        apart = [a - b for a, b in zip(cents, VALUES[other], strict=True)]
        assert difference == pytest.approx((sum(apart) / 3, min(apart), max(apart)))


def test_what_the_naive_rule_sells_at_a_close_is_counted(rows: dict[str, Row]) -> None:
    naive, plain = rows["naive"], rows["plain"]
    assert (naive.fired, naive.by_close, naive.at_zero, naive.winners_by_close) == (3, 1, 1, 1)
    assert (plain.fired, plain.by_close, plain.at_zero, plain.winners_by_close) == (2, 0, 0, 0)
    assert all(row.by_close == row.at_zero == 0 for name, row in rows.items() if name != "naive")


def test_false_stops_and_lateness_are_told(rows: dict[str, Row]) -> None:
    plain, waited, patient = rows["plain"], rows["wick 5 c, 5 s"], rows["spread <= 6 c, 30 s"]
    assert (plain.false_stops, plain.late_median_s, plain.given_up) == (1, 0.0, 0.0)
    # The sweeps come every 2 s from the quote on: 1302, 1304, 1306.
    assert (waited.fired, waited.false_stops) == (1, 0)
    assert (waited.late_median_s, waited.late_p90_s) == pytest.approx((6.0, 6.0))
    assert waited.given_up == pytest.approx(5.0)
    assert (patient.late_median_s, patient.given_up) == pytest.approx((30.0, 35.0))


def test_after_the_latency_the_next_real_bid_buys(rows: dict[str, Row]) -> None:
    # Plain: kept to 1.00, 0.58 after the wick, 0.40 after the first step. Naive: the same and 0.00.
    assert rows["plain"].late_value[0] == pytest.approx((40 - 2 - 20) / 3)
    assert rows["naive"].late_value[0] == pytest.approx((-60 - 2 - 20) / 3)
    assert rows["spread <= 6 c, 30 s"].late_to_plain[0] == pytest.approx((40 + 40 - 60 - 18) / 3), (
        "nobody buys after 1320: held to its end at 0"
    )


def test_positions_of_an_event_are_one_observation() -> None:
    markets = [f"KXHIGHNY-26DEC19-B{n}" for n in (1, 2, 3)] + ["KXHIGHNY-26DEC20-B1"]
    lines = [
        json.dumps(frame(ticker, CLOSE + n, bid)).encode()
        for ticker in markets
        for n, bid in enumerate(("0.60", "0.40"))
    ]
    assert {row.clusters for row in measure(lines, "t", entries=1)} == {4}
    assert {row.clusters for row in measure(lines, "t", entries=1, is_by_event=True)} == {2}


def test_a_position_is_entered_once_in_each_part_of_the_time() -> None:
    bids = ["0.60", "0.20", "0.50", "0.55", "0.90", "0.95", "0.97", "0.85", "0.70"]
    lines = [json.dumps(frame("T-1", CLOSE + n, bid, "0.99")).encode() for n, bid in enumerate(bids)]
    course = course_of("T-1", read_tape(lines).quotes["T-1"], OutcomeSide.YES)
    assert entry_points(course, 1) == [0]
    assert entry_points(course, 4) == [0, 2, 8]


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 1.0, 3.0, 40.0, 200.0]), st.integers(0, 80)),
        min_size=3,
        max_size=60,
    ),
    st.sampled_from(list(GUARDS)),
)
@settings(deadline=None, max_examples=200, database=None)
def test_what_the_walk_skips_changes_nothing(steps: list[tuple[float, int]], guard: str) -> None:
    at, rows = CLOSE, [frame("T-1", CLOSE, "0.60", "0.81")]
    for wait_s, cents in steps:
        at += wait_s
        rows.append(frame("T-1", at, str(D(cents) / 100), "0.81"))
    lines = [json.dumps(row).encode() for row in rows]
    course = course_of("T-1", read_tape(lines).quotes["T-1"], OutcomeSide.YES)
    position = Position("T-1", OutcomeSide.YES, ONE, D("0.60"))
    rule = ExitRule(stop_loss_dollars=D("0.10"), **GUARDS[guard])
    met = [i for i, bid in enumerate(course.bids) if i and course.is_real[i] and bid <= D("0.50")]
    every = range(len(course.quotes))
    assert walk(course, 1, position, rule, met) == walk(course, 1, position, rule, every)


def test_the_table_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tapes, out = tmp_path / "tapes", tmp_path / "out"
    tapes.mkdir()
    (tapes / "hand.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)))
    calm = json.dumps(frame(WINNER, CLOSE - 600, "0.60")).encode()
    (tapes / "calm.jsonl.gz").write_bytes(gzip.compress(calm))
    assert main(["--tapes", str(tapes), "--out", str(out), "--entries", "1"]) == 0
    assert "wick 5 c, 5 s" in capsys.readouterr().out
    with (out / "guard_values.csv").open(encoding="utf-8", newline="") as file:
        table = {(row["tape"], row["stop"], row["rule"]): row for row in csv.DictReader(file)}
    assert len(table) == 2 * 2 * (len(GUARDS) + 2)
    naive = table["hand", "10 c", "naive"]
    assert (naive["fired"], naive["by_close"]) == ("3", "1")
    assert float(naive["value"]) == pytest.approx(-95 / 3)
    assert float(naive["to_plain_low"]) == pytest.approx(-100)
    text = (out / "guard_values.md").read_text(encoding="utf-8")
    assert "| naive | 3 | 1 | 1 | 1 | 33 % |" in text
    assert text.count("| every rule | 0 |") == 2, "one line where nothing was sold"


@pytest.mark.skipif(not TAPES.is_dir(), reason="the recorded tapes are not here")
@pytest.mark.parametrize(
    ("tape", "gained_at_least"),
    [("kxbtc15m_ticker_20260511-13", 5.0), ("kxhighny_bbo_20251218-24", 0.0)],
    ids=["15 minutes, closes among them", "thin daily markets, no close of a position among them"],
)
def test_shipped_guards_sell_nothing_at_a_close_and_cost_nothing(tape: str, gained_at_least: float) -> None:
    with gzip.open(TAPES / f"{tape}.jsonl.gz") as lines:
        found = measure(lines, tape, entries=1, guards={"shipped": {}})
    shipped = [row for row in found if row.rule == "shipped"]
    assert len(shipped) == 2
    for row in shipped:
        assert row.fired > 0
        assert row.by_close == row.at_zero == row.winners_by_close == 0
        assert row.to_naive[1] >= gained_at_least, "the lower end of its interval"
        assert row.to_plain == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("no tape", None, 2),
        ("not gzip", b"{}", 5),
        ("cut off", gzip.compress(b"".join(LINES))[:-20], 5),
        ("no quote in it", gzip.compress(b"{}\n"), 5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tapes_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, code: int
) -> None:
    if content is not None:
        (tmp_path / "bad.jsonl.gz").write_bytes(content)
    assert main(["--tapes", str(tmp_path)]) == code
    assert str(tmp_path) in capsys.readouterr().err
