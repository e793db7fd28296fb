"""The replay command on small tapes written here, and on the recorded one where it is at hand."""

from __future__ import annotations

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from base.app.replay import Result, close_time_of, main, read_tape, simulate, total
from base.errors import WireError
from base.model.market import OutcomeSide
from base.model.rules import ExitRule
from base.risk.rule_book import RuleBook

D = Decimal
TICKER = "KXBTC15M-26MAY110145-45"
CLOSE = 1_778_478_300.0  # 2026-05-11 01:45 in New York
RECORDED = Path(__file__).parents[2].parent / "shared" / "tapes" / "kxbtc15m_ticker_20260511-13.jsonl.gz"
TEN_CENTS = RuleBook.empty(ExitRule(stop_loss_dollars=D("0.10")))


def frame(at: float, bid: str, ask: str, bid_size: str = "50.00", ask_size: str = "50.00") -> dict[str, Any]:
    return {
        "recv_ts": at,
        "type": "ticker",
        "sid": 1,
        "msg": {
            "market_ticker": TICKER,
            "yes_bid_dollars": bid,
            "yes_ask_dollars": ask,
            "yes_bid_size_fp": bid_size,
            "yes_ask_size_fp": ask_size,
            "ts_ms": round(at * 1000),
        },
    }


THE_CLOSE = frame(CLOSE + 0.3, "0.0000", "1.0000", "0.00", "0.00")
YES_WINS = [
    frame(CLOSE - 300, "0.6000", "0.6100"),
    frame(CLOSE - 200, "0.5500", "0.5600"),
    frame(CLOSE - 1, "0.9990", "1.0000", ask_size="0.00"),
    THE_CLOSE,
]


def lines(rows: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress(b"".join(lines(rows))))
    return path


def run(rows: list[dict[str, Any]], side: OutcomeSide, book: RuleBook = TEN_CENTS) -> Result:
    [result] = simulate(read_tape(lines(rows)), book, [side])
    return result


def book_frame(kind: str, seq: int, **message: Any) -> dict[str, Any]:
    return {
        "recv_ts": CLOSE - 300 + seq,
        "type": kind,
        "sid": 2,
        "seq": seq,
        "msg": {"market_ticker": TICKER, **message},
    }


def test_a_winner_is_kept_at_its_close_and_the_naive_stop_sells_it_for_nothing() -> None:
    result = run(YES_WINS, OutcomeSide.YES)
    assert (result.entry, result.settlement) == (D("0.60"), D(1))
    assert result.rule.at is None
    assert result.value(result.rule) == D("0.40")
    assert (result.naive.price, result.naive.is_at_zero, result.naive.is_at_close) == (D(0), True, True)
    assert result.value(result.naive) == D("-0.60")
    assert total("rule", [result]).winners_at_close == 0
    assert total("naive", [result]).winners_at_close == 1


def test_a_loser_is_left_at_the_first_bid_at_or_below_its_stop() -> None:
    result = run(YES_WINS, OutcomeSide.NO)
    assert (result.entry, result.settlement) == (D("0.39"), D(0))
    # The NO bid goes 0.39, 0.44 and then nobody bids: nothing to sell into, and settlement takes it.
    assert result.rule.at is None
    falling = [*YES_WINS[:2], frame(CLOSE - 100, "0.7000", "0.7200"), *YES_WINS[2:]]
    left = run(falling, OutcomeSide.NO)
    assert (left.rule.reason, left.rule.price, left.rule.at) == ("stop_loss", D("0.28"), CLOSE - 100)
    assert left.value(left.rule) == D("-0.11")


def test_a_price_that_is_back_within_a_minute_is_counted() -> None:
    wick = [
        YES_WINS[0],
        frame(CLOSE - 200, "0.5000", "0.6100"),
        frame(CLOSE - 150, "0.6000", "0.6100"),
        THE_CLOSE,
    ]
    assert run(wick, OutcomeSide.YES).rule.came_back
    late = [
        YES_WINS[0],
        frame(CLOSE - 200, "0.5000", "0.6100"),
        frame(CLOSE - 139, "0.6000", "0.6100"),
        THE_CLOSE,
    ]
    assert not run(late, OutcomeSide.YES).rule.came_back


def test_a_guard_gives_way_between_two_frames_as_it_does_in_the_daemon() -> None:
    guarded = RuleBook.empty(
        ExitRule(stop_loss_dollars=D("0.10"), confirm_updates=5, guard_patience_ms=10_000)
    )
    rows = [YES_WINS[0], frame(CLOSE - 200, "0.4500", "0.4600"), frame(CLOSE - 100, "0.4000", "0.4100")]
    left = run(rows, OutcomeSide.YES, guarded).rule
    assert (left.at, left.price) == (CLOSE - 190, D("0.45"))


def test_best_prices_in_cents_are_read() -> None:
    rows = [
        {
            "recv_ts": 1.0 + i,
            "type": "_bbo",
            "market_ticker": "KXHIGHNY-1",
            "best_yes_bid": bid,
            "implied_yes_ask": ask,
        }
        for i, (bid, ask) in enumerate([(0, 40), (31, 100), (20, 100), (1, 5)])
    ]
    result = run(rows, OutcomeSide.YES)
    assert (result.entry, result.rule.price) == (D("0.31"), D("0.20"))
    assert result.settlement == 0


def test_order_books_are_rebuilt_and_a_gap_silences_them_until_the_next_snapshot() -> None:
    levels = {
        "yes_dollars_fp": [["0.5000", "10.00"], ["0.4000", "5.00"]],
        "no_dollars_fp": [["0.4800", "7.00"]],
    }
    gone = {"price_dollars": "0.5000", "delta_fp": "-10.00", "side": "yes"}
    rows = [
        book_frame("orderbook_snapshot", 1, **levels),
        book_frame("orderbook_delta", 2, **gone),
        book_frame("orderbook_delta", 3, price_dollars="0.1000", delta_fp="1.00", side="yes"),
        book_frame("orderbook_delta", 5, price_dollars="0.4500", delta_fp="1.00", side="yes"),
        book_frame("orderbook_snapshot", 6, **levels),
    ]
    tape = read_tape(lines(rows))
    tops = [(str(each.yes_bid), str(each.yes_bid_size), str(each.yes_ask)) for each in tape.quotes[TICKER]]
    assert tops == [
        ("0.5000", "10.00", "0.5200"),
        ("0.4000", "5.00", "0.5200"),
        ("0.5000", "10.00", "0.5200"),
    ]
    assert tape.refused == 0


def test_a_new_connection_starts_with_empty_books() -> None:
    levels = {"yes_dollars_fp": [["0.5000", "10.00"]], "no_dollars_fp": [["0.4800", "7.00"]]}
    rows = [
        book_frame("orderbook_snapshot", 1, **levels),
        {"recv_ts": CLOSE, "type": "_ws_connected"},
        book_frame("orderbook_delta", 2, price_dollars="0.5000", delta_fp="-10.00", side="yes"),
    ]
    assert len(read_tape(lines(rows)).quotes[TICKER]) == 1


@pytest.mark.parametrize(
    "bad",
    [
        b"not json\n",
        b"[1]\n",
        b'{"recv_ts": 1, "type": "_bbo", "market_ticker": "A", "best_yes_bid": 0.4, "implied_yes_ask": 50}\n',
        b'{"recv_ts": 1, "type": "_bbo", "best_yes_bid": 40, "implied_yes_ask": 50}\n',
        b'{"recv_ts": 1, "type": "_bbo", "market_ticker": "A", "best_yes_bid": 40}\n',
        lines([frame(1.0, "NaN", "0.5")])[0],
        lines([frame(1.0, "1.5", "0.5")])[0],
    ],
)
def test_lines_that_cannot_be_proved_right_are_left_out_and_counted(bad: bytes) -> None:
    tape = read_tape([bad, *lines(YES_WINS)])
    assert tape.refused == 1
    assert len(tape.quotes[TICKER]) == len(YES_WINS)


def test_a_tape_without_a_quote_is_refused() -> None:
    with pytest.raises(WireError):
        read_tape([b'{"type": "subscribed", "id": 1, "msg": {"channel": "ticker", "sid": 1}}\n'])


def test_a_tape_cut_off_before_the_close_does_not_tell_the_settlement() -> None:
    rows = [YES_WINS[0], frame(CLOSE - 61, "0.9500", "0.9600")]
    result = run(rows, OutcomeSide.YES)
    assert result.settlement is None
    assert result.value(result.rule) == D("0.35")  # at the last real bid


@pytest.mark.parametrize(
    ("ticker", "close"),
    [
        pytest.param("KXBTC15M-26MAY110145-45", CLOSE, id="quarter hour, summer time"),
        pytest.param("KXBTC15M-26JAN150000-00", 1_768_453_200.0, id="midnight, winter time"),
        pytest.param("KXMLBGAME-26AUG072140LADAZ-LAD", None, id="start of a match"),
        pytest.param("KXHIGHNY-25DEC19-T61", None, id="no time in it"),
        pytest.param("KXBTC15M-26MAY110145-30", None, id="minutes that disagree"),
        pytest.param("KXBTC15M-26XXX110145-45", None, id="no such month"),
    ],
)
def test_close_time_from_the_ticker(ticker: str, close: float | None) -> None:
    assert close_time_of(ticker) == close


def test_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = write(tmp_path / "tape.jsonl.gz", YES_WINS)
    assert main([str(tape), "--out", str(tmp_path / "out"), "--side", "yes"]) == 0
    with (tmp_path / "out" / "positions.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["market"], row["side"], row["value_cents"]) == (TICKER, "yes", "+40.00")
    assert row["naive_value_cents"] == "-60.00"
    with (tmp_path / "out" / "totals.csv").open(encoding="utf-8", newline="") as file:
        totals = {each["rule"]: each for each in csv.DictReader(file)}
    assert totals["rule"]["winners sold at a close"] == "0"
    assert totals["naive"]["winners sold at a close"] == "1"
    assert TICKER in capsys.readouterr().out


def test_plain_text_tapes_and_rules_files_are_taken(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_bytes(b"".join(lines(YES_WINS)))
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nmatch = "series:KXBTC15M"\ntake_profit_price = "0.95"\n', encoding="utf-8")
    assert main([str(tape), "--rules", str(rules), "--stop-pct", "25", "--out", str(tmp_path / "out")]) == 0
    assert "take_profit" in (tmp_path / "out" / "positions.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["{tape}", "--side", "maybe"],
        ["{tape}", "--stop-dollars", "10"],
        ["{tape}", "--stop-dollars", "nan"],
        ["{tape}", "--stop-pct", "100"],
        ["{tape}", "--stop-pct", "0"],
        ["{tape}", "--stop-pct", "25", "--stop-dollars", "0.10"],
        ["{tape}", "--rules", "{missing}"],
        ["{tape}", "--rules", "{bad}"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_code_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[[rule]]\nstop = 5\n", encoding="utf-8")
    tape = write(tmp_path / "tape.jsonl.gz", YES_WINS)
    assert main([each.format(tape=tape, bad=bad, missing=tmp_path / "none") for each in arguments]) == 2
    assert capsys.readouterr().err


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--stop-dollars" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "folder", "no gzip", "cut gzip", "no quotes", "empty"])
def test_an_unreadable_tape_is_code_5(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = tmp_path / "tape.jsonl.gz"
    if kind == "folder":
        tape.mkdir()
    elif kind == "no gzip":
        tape.write_bytes(b"".join(lines(YES_WINS)))
    elif kind == "cut gzip":
        tape.write_bytes(gzip.compress(b"".join(lines(YES_WINS)))[:-20])
    elif kind == "no quotes":
        tape.write_bytes(gzip.compress(b"{}\n"))
    elif kind == "empty":
        tape.write_bytes(b"")
    assert main([str(tape)]) == 5
    assert "tape.jsonl.gz" in capsys.readouterr().err


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tape is not at hand")
def test_no_winner_is_sold_at_a_recorded_close() -> None:
    with gzip.open(RECORDED, "rb") as file:
        tape = read_tape(file)
    results = simulate(tape, TEN_CENTS, list(OutcomeSide))
    ours, naive = total("rule", results), total("naive", results)
    assert (ours.winners_at_close, ours.at_zero, tape.refused) == (0, 0, 0)
    assert naive.winners_at_close > 0
    assert ours.value_cents > naive.value_cents + 5
