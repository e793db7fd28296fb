"""What is told to the journal is there afterwards, exactly, or the journal says loudly that it is not."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from base.clock import SystemClock
from base.errors import ConfigError
from base.execution.episode import EpisodeState
from base.model.market import BookSide, OutcomeSide
from base.model.order import EntryState
from base.model.rules import ExitReason
from base.store.journal import ADDED_MAX, COMMIT_S_MAX, REPLACING_MAX, RETRY_S, Journal
from base.store.journal_file import ADDED_KEPT_MAX, ENDED_MAX, KEPT_S, WAL_BYTES_MAX
from base.store.journal_mirror import LEDGER_DAYS, RECENT_MAX
from base.store.journal_schema import EPISODES, MIGRATIONS, POSITIONS, TABLES, checksum, decode, encode
from base.store.records import AttemptOutcome, LedgerRecord, Record, Recorder, Remembered
from tests.fakes.clock import FakeClock
from tests.store.journal_rig import (
    ACCOUNT,
    DAY_S,
    Disk,
    T,
    attempt,
    decision,
    disk_error,
    entry,
    episode,
    fill,
    hedge,
    ledger,
    mounted,
    one_of_each,
    order,
    paper,
    position,
    remount,
    result,
    rows,
    rule_state,
    transition,
)

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


class Rig:
    """A journal whose passes the test makes itself, on a clock that moves when told."""

    def __init__(self, path: Path, **options: object) -> None:
        self.path = path
        self.clock = FakeClock()
        self.disk = Disk()
        self.journal = self.opened(**options)

    def opened(self, **options: object) -> Journal:
        return Journal.open(self.path, self.clock, account=ACCOUNT, connect=self.disk, **options)  # type: ignore[arg-type]

    def written(self, *records: Record) -> None:
        self.journal.write(records)
        self.journal.run_once()
        assert self.journal.status().waiting == 0

    def fail(self, *records: Record) -> None:
        """Write while the disk fails."""
        self.journal.write(records)
        self.journal.run_once()
        assert not self.journal.status().ok

    def retry(self) -> None:
        self.clock.advance(RETRY_S)
        self.journal.run_once()

    def again(self) -> Remembered:
        """Stop, and start anew with the same file."""
        self.journal.stop()
        self.journal = self.opened()
        return self.journal.load()

    def close(self) -> None:
        self.disk.heal()
        self.journal.stop()
        assert self.journal.join(5.0)


@pytest.fixture
def rig(path: Path) -> Iterator[Rig]:
    rig = Rig(path)
    yield rig
    rig.close()


class Running:
    """A journal with its thread, on the real clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = Disk()
        self.journal = Journal.open(path, SystemClock(), account=ACCOUNT, connect=self.disk)
        self.journal.start()

    def until(self, is_so: Callable[[], bool], within_s: float = 10.0) -> bool:
        deadline = time.monotonic() + within_s
        waiting = threading.Event()
        while not is_so() and time.monotonic() < deadline:
            waiting.wait(0.01)
        return is_so()


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    running = Running(path)
    yield running
    running.disk.heal()
    running.journal.stop()
    assert running.journal.join(10.0)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event_fields["event"] for record in caplog.records if hasattr(record, "event_fields")]


# --- what is remembered -------------------------------------------------------------------------------


def test_every_kind_of_record_comes_back_exactly(rig: Rig) -> None:
    rig.written(*one_of_each())
    told_at = rig.clock.now()
    rig.clock.advance(100.0)
    assert rig.again() == Remembered(
        episodes=(episode(),),
        attempts=(attempt(),),
        rule_states=(rule_state(),),
        positions=(position(),),
        orders=(order(),),
        fills=(fill(),),
        ledgers=(ledger(),),
        results=(result(),),
        entries=(entry(),),
        hedges=(hedge(),),
        paper=(paper(),),
        written_at=told_at,
    )


def test_exact_decimals_keep_their_zeros(rig: Rig) -> None:
    rig.written(position(count="10.50"))
    assert str(rig.again().positions[0].count) == "10.50"


def test_transitions_and_decisions_stay_in_order(rig: Rig) -> None:
    rig.written(transition(2), decision(2), transition(1))
    rig.written(decision(1), transition(3))
    assert rows(rig.path, "SELECT at FROM transitions ORDER BY seq") == [(2.0,), (1.0,), (3.0,)]
    assert rows(rig.path, "SELECT at FROM decisions ORDER BY seq") == [(2.0,), (1.0,)]


def test_a_new_start_numbers_on(rig: Rig) -> None:
    rig.written(transition(1), transition(2))
    rig.again()
    rig.written(transition(3))
    assert rows(rig.path, "SELECT at FROM transitions ORDER BY seq") == [(1.0,), (2.0,), (3.0,)]


def test_a_new_journal_remembers_nothing(rig: Rig) -> None:
    assert rig.journal.load() == Remembered()


def test_attempts_come_in_the_order_of_their_episodes_and_numbers(rig: Rig) -> None:
    early, late = replace(episode("z"), opened_at=1.0), replace(episode("a"), opened_at=2.0)
    rig.written(attempt("a-1", of="a"), late, early)
    rig.written(attempt("z-2", of="z", number=2), attempt("z-10", of="z", number=10))
    rig.written(attempt("z-1", of="z", number=1))
    remembered = rig.again()
    assert [e.id for e in remembered.episodes] == ["z", "a"]
    assert [a.client_order_id for a in remembered.attempts] == ["z-1", "z-2", "z-10", "a-1"]


def test_the_last_exits_that_ended_are_told_oldest_first_and_none_of_them_is_taken_up(rig: Rig) -> None:
    now = rig.clock.now()
    old = episode("old", closed_at=now - 3 * DAY_S, state="closed")
    ended = [episode(f"e{i:02}", closed_at=now - 100 + i, state="closed") for i in range(ENDED_MAX + 5)]
    rig.written(old, *reversed(ended), episode("open"))
    remembered = rig.again()
    assert [e.id for e in remembered.ended] == [e.id for e in ended[5:]]
    assert remembered.ended[-1] == ended[-1]
    assert [e.id for e in remembered.episodes] == ["open"]


@pytest.mark.parametrize(
    ("told", "age_s", "count"),
    [
        ([episode(closed_at=5.0), attempt()], 0.0, 0),
        ([episode(), attempt()], 40 * DAY_S, 2),
        ([attempt()], 0.0, 0),
        ([position(count="0.00")], 0.0, 0),
        ([position(), rule_state()], 40 * DAY_S, 2),
        ([order(), fill()], 1.9 * DAY_S, 2),
        ([order(), fill()], 2.1 * DAY_S, 0),
        ([ledger("2026-09-14"), ledger("2026-09-13")], 0.0, 1),
        ([result("2026-09-14"), result("2026-09-13")], 0.0, 1),
        ([entry(), entry("over", state=EntryState.DONE)], 40 * DAY_S, 1),
        ([hedge(), hedge("over", ended_at=5.0)], 40 * DAY_S, 1),
        ([paper()], 40 * DAY_S, 1),
    ],
    ids=[
        "a closed exit is history",
        "an open exit is remembered however old",
        "an attempt without its exit is history",
        "a position that is gone",
        "a position held for long keeps its rule state",
        "orders of yesterday",
        "orders of three days ago",
        "ledgers of the last week",
        "results of the last week",
        "an order that rests is remembered however old",
        "positions that hedge each other",
        "what a paper account holds",
    ],
)
def test_what_a_new_start_is_told(rig: Rig, told: list[Record], age_s: float, count: int) -> None:
    rig.written(*told)
    rig.clock.advance(age_s)
    found = rig.again()
    assert sum(len(getattr(found, f.name)) for f in fields(found) if f.name != "written_at") == count


def test_the_newest_of_a_key_wins_and_is_written_once(rig: Rig) -> None:
    rig.written(*(position(count=str(n)) for n in range(1, 20)))
    assert rig.journal.status().commits == 1
    assert rows(rig.path, "SELECT count FROM positions") == [("19",)]


def test_states_may_be_given_as_the_enum_they_come_from(rig: Rig) -> None:
    rig.written(episode(state=EpisodeState.BLOCKED))
    assert rig.again().episodes == (episode(state="blocked"),)


decimals = st.decimals(allow_nan=False, allow_infinity=False)
reals = st.floats(allow_nan=False, allow_infinity=False)
VALUES = {
    str: st.text(st.characters(exclude_categories=["Cs"])),
    int: st.integers(-(2**63) + 1, 2**63 - 1),
    float: reals,
    bool: st.booleans(),
    Decimal: decimals,
    Decimal | None: st.none() | decimals,
    float | None: st.none() | reals,
    int | None: st.none() | st.integers(0, 99),
    **{
        kind: st.sampled_from(kind)
        for kind in (OutcomeSide, BookSide, ExitReason, AttemptOutcome, EntryState)
    },
}


def zeros(record: Record) -> str:
    """A record as exact text, but for the sign of a zero time, which SQLite does not keep."""
    return re.sub(r"-0\.0(?=[,)])", "0.0", repr(record))


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_any_value_comes_back_from_sqlite(rig: Rig, kind: type) -> None:
    connection = rig.disk.opened[0]
    table = TABLES[kind]

    @given(st.builds(kind, **{name: VALUES[hint] for name, hint in get_type_hints(kind).items()}))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def comes_back(record: Record) -> None:
        row = encode(record, 7, 1.5)
        connection.execute(f"DELETE FROM {table.name}")
        connection.execute(table.insert, row.values)
        (found,) = connection.execute(table.select)
        assert found[-1] == checksum(table.name, *found[:-1])
        assert zeros(decode(table, found).record) == zeros(record)

    comes_back()


def test_a_negative_zero_is_no_damage(rig: Rig) -> None:
    rig.written(replace(rule_state(), updated_at=-0.0))
    assert rig.again().rule_states == (replace(rule_state(), updated_at=0.0),)
    assert not rig.journal.was_damaged


def test_half_a_character_is_written_out_rather_than_lost(rig: Rig) -> None:
    rig.written(episode(), replace(attempt(), why="refused: \ud83d é"))
    assert rig.again().attempts[0].why == "refused: \\ud83d é"


def test_the_tables_have_a_column_for_every_field(rig: Rig) -> None:
    for kind, table in TABLES.items():
        found = {name for (name,) in rows(rig.path, f"SELECT name FROM pragma_table_info('{table.name}')")}
        extra = {"recorded_at", "checksum"} | (set() if table.is_keyed else {"seq"})
        assert found == {f.name for f in fields(kind)} | extra


# --- write and commit ---------------------------------------------------------------------------------


def test_committed_is_on_disk_when_commit_returns(running: Running) -> None:
    journal: Recorder = running.journal
    assert journal.commit(one_of_each())
    assert rows(running.path, "SELECT client_order_id FROM attempts") == [("e1-1",)]
    assert running.journal.status().ok
    assert running.journal.status().last_commit_ms > 0.0


def test_written_is_on_disk_within_a_second(running: Running) -> None:
    running.journal.write([decision()])
    assert running.until(lambda: running.journal.status().waiting == 0, within_s=1.0)
    assert rows(running.path, "SELECT count(*) FROM decisions") == [(1,)]


def test_commit_takes_what_was_queued_before_with_it(running: Running) -> None:
    running.journal.write([decision(1), decision(2)])
    assert running.journal.commit([])
    assert rows(running.path, "SELECT count(*) FROM decisions") == [(2,)]


def test_threads_that_commit_at_once_share_transactions(running: Running) -> None:
    threads, each = 16, 20
    running.journal.commit([episode()])
    start = threading.Barrier(threads)
    durable: list[str] = []

    def commit(thread: int) -> None:
        start.wait()
        for number in range(each):
            id = f"{thread}-{number}"
            if running.journal.commit([attempt(id, number=number), transition()]):
                durable.append(id)

    workers = [threading.Thread(target=commit, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30.0)
    assert len(durable) == threads * each
    assert {id for (id,) in rows(running.path, "SELECT client_order_id FROM attempts")} == set(durable)
    assert rows(running.path, "SELECT count(*) FROM transitions") == [(threads * each,)]
    assert running.journal.status().commits < threads * each


def test_nobody_waits_for_a_journal_that_does_not_run(rig: Rig) -> None:
    started = time.monotonic()
    assert not rig.journal.commit([position()])
    assert time.monotonic() - started < COMMIT_S_MAX / 2
    rig.journal.stop()
    assert rows(rig.path, "SELECT count(*) FROM positions") == [(1,)]
    assert not rig.journal.commit([position()])


def test_what_waits_at_the_stop_is_written(path: Path) -> None:
    running = Running(path)
    running.journal.write([decision(n) for n in range(100)])
    running.journal.stop()
    assert running.journal.join(5.0)
    assert not running.journal.is_alive
    assert rows(path, "SELECT count(*) FROM decisions") == [(100,)]
    assert not path.with_name(f"{path.name}-wal").exists()


def test_a_pass_says_when_it_was(rig: Rig) -> None:
    assert rig.journal.last_pass_at is None
    rig.journal.run_once()
    assert rig.journal.last_pass_at == rig.clock.monotonic()


@pytest.mark.parametrize(
    "bad",
    [
        position(count="NaN"),
        replace(rule_state(), updated_at=float("nan")),
        replace(attempt(), number=2**63),
        replace(position(), outcome_side="maybe"),  # type: ignore[arg-type]
        replace(fill(), order_id=None),  # type: ignore[arg-type]
    ],
    ids=["no number", "no time", "no 64-bit integer", "no side", "no text"],
)
def test_a_record_that_no_column_takes_is_refused_alone(running: Running, bad: Record) -> None:
    assert not running.journal.commit([decision(1), bad, decision(2)])
    assert rows(running.path, "SELECT at FROM decisions ORDER BY seq") == [(1.0,), (2.0,)]
    status = running.journal.status()
    assert (status.ok, status.dropped, status.waiting) == (True, 1, 0)


# --- opening ------------------------------------------------------------------------------------------


def test_the_file_is_private(rig: Rig) -> None:
    rig.written(position())
    for part in rig.path.parent.iterdir():
        assert stat.S_IMODE(part.stat().st_mode) == 0o600, part


def test_a_file_that_others_could_read_is_made_private(rig: Rig) -> None:
    rig.path.chmod(0o644)
    rig.again()
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o600


def test_every_commit_waits_for_the_disk(rig: Rig) -> None:
    rig.disk.fail_at("COMMIT", disk_error())
    rig.fail(position())
    rig.disk.heal()
    rig.retry()
    assert rig.journal.status().ok
    assert len(rig.disk.opened) == 2, "a connection that failed is not used again"
    for pragma, value in {"journal_mode": "wal", "synchronous": 2, "mmap_size": 0}.items():
        (found,) = rig.disk.opened[1].execute(f"PRAGMA {pragma}").fetchone()
        assert found == value


def memory(_: Path) -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def careless(path: Path) -> sqlite3.Connection:
    class Careless(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *parameters)

    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Careless)


@pytest.mark.parametrize("connect", [memory, careless], ids=["no log", "no waiting for the disk"])
def test_a_journal_that_would_not_survive_a_power_cut_is_refused(
    path: Path, connect: Callable[[Path], sqlite3.Connection]
) -> None:
    with pytest.raises(ConfigError):
        Journal.open(path, FakeClock(), account=ACCOUNT, connect=connect)


def no_directory(path: Path) -> None:
    path.parent.rmdir()


def of_another_account(path: Path) -> None:
    Journal.open(path, FakeClock(), account="key-2").stop()


def of_a_newer_version(path: Path) -> None:
    added = "ALTER TABLE decisions ADD COLUMN mood TEXT;"
    Journal.open(path, FakeClock(), account=ACCOUNT, migrations=(*MIGRATIONS, added)).stop()


def held_by_another(path: Path) -> None:
    Journal.open(path, FakeClock(), account=ACCOUNT).stop()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    HOLDERS.append(holder)


HOLDERS: list[sqlite3.Connection] = []


@pytest.mark.parametrize(
    "prepare",
    [Path.mkdir, os.mkfifo, no_directory, of_another_account, of_a_newer_version, held_by_another],
    ids=[
        "a directory in its place",
        "a pipe in its place",
        "no directory",
        "another account",
        "a newer version",
        "held by another program",
    ],
)
def test_what_the_operator_must_mend(path: Path, prepare: Callable[[Path], None]) -> None:
    prepare(path)
    before = sorted(p.name for p in path.parent.glob("*.sqlite3"))
    with pytest.raises(ConfigError) as raised:
        Journal.open(path, FakeClock(), account=ACCOUNT)
    assert str(path) in str(raised.value)
    assert sorted(p.name for p in path.parent.glob("*.sqlite3")) == before, "nothing was set aside"
    while HOLDERS:
        HOLDERS.pop().close()


def test_fresh_begins_anew_whatever_was_there(rig: Rig) -> None:
    rig.written(*one_of_each())
    rig.journal.stop()
    rig.journal = rig.opened(fresh=True)
    assert rig.journal.load() == Remembered()
    assert not rig.journal.was_damaged
    assert rows(rig.path, "SELECT count(*) FROM decisions") == [(0,)]


def test_a_zero_byte_file_is_a_new_one(path: Path) -> None:
    path.touch()
    rig = Rig(path)
    assert not rig.journal.was_damaged
    rig.written(position())
    assert rig.again().positions == (position(),)
    rig.close()


def test_an_older_version_is_brought_up_to_date(path: Path) -> None:
    """A file of version 1 as another program might have made it, read by a newer program."""
    with sqlite3.connect(path) as connection:
        connection.executescript(MIGRATIONS[0])
        for key, value in {"account": ACCOUNT, "created_at": "then", "schema": "1"}.items():
            connection.execute(
                "INSERT INTO meta VALUES (?, ?, ?)", (key, value, checksum("meta", key, value))
            )
        for record in (episode(), attempt(), decision()):
            row = encode(record, 1, 1_790_000_000.0)
            connection.execute(row.table.insert, row.values)
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    migrations = (*MIGRATIONS, "ALTER TABLE decisions ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm';")
    journal = Journal.open(path, FakeClock(), account=ACCOUNT, migrations=migrations)
    assert not journal.was_damaged
    assert journal.load().episodes == (episode(),)
    assert journal.load().attempts == (attempt(),)
    journal.stop()
    assert rows(path, "SELECT mood, detail FROM decisions") == [("calm", "detail 1")]
    assert rows(path, "PRAGMA user_version") == [(len(migrations),)]
    again = Journal.open(path, FakeClock(), account=ACCOUNT, migrations=migrations)
    assert not again.was_damaged
    again.stop()


def test_what_version_1_remembered_is_taken_up(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(MIGRATIONS[0])
        for key, value in {"account": ACCOUNT, "created_at": "then", "schema": "1"}.items():
            connection.execute(
                "INSERT INTO meta VALUES (?, ?, ?)", (key, value, checksum("meta", key, value))
            )
        for table, new in ((rule_state(), "leave_with"), (position(), "strategy")):
            row = encode(table, 1, 1_790_000_000.0)
            old = {n: v for n, v in zip(row.table.names, row.values[:-1], strict=True) if n != new}
            names = ", ".join((*old, "checksum"))
            marks = ", ".join("?" * (len(old) + 1))
            values = (*old.values(), checksum(row.table.name, *old.values()))
            connection.execute(f"INSERT INTO {row.table.name} ({names}) VALUES ({marks})", values)
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    journal = Journal.open(path, FakeClock(), account=ACCOUNT)
    assert not journal.was_damaged
    assert journal.load().rule_states == (rule_state(),)
    assert journal.load().positions == (position(),)
    journal.stop()


def test_a_migration_happens_wholly_or_not_at_all(path: Path) -> None:
    of_another = Rig(path)
    of_another.written(*one_of_each())
    of_another.close()
    broken = (*MIGRATIONS, "ALTER TABLE fills ADD COLUMN mood TEXT; INSERT INTO meta VALUES (NULL, '', 1);")
    with pytest.raises(ConfigError):
        Journal.open(path, FakeClock(), account=ACCOUNT, migrations=broken)
    journal = Journal.open(path, FakeClock(), account=ACCOUNT)
    assert journal.load().fills == (fill(),)
    journal.stop()


# --- damage -------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite(path: Path) -> None:
    path.write_bytes(b"these are the notes of somebody else\n" * 100)


def other_database(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE notes (text TEXT)")


def change(path: Path, script: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()


def keep_only_the_log(path: Path, *, is_emptied: bool) -> None:
    log = path.with_name(f"{path.name}-wal")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("DELETE FROM decisions")
    saved = log.read_bytes()
    holder.close()
    log.write_bytes(saved)
    path.unlink()
    if is_emptied:
        path.touch()


def lose_a_row(path: Path) -> None:
    """Lower the number of rows in the page of the attempts: the last row is gone, all others are whole."""
    ((page,),) = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'attempts'")
    with path.open("r+b") as file:
        assert isinstance(page, int)
        file.seek((page - 1) * 4096 + 3)
        (count,) = struct.unpack(">H", file.read(2))
        file.seek(-2, os.SEEK_CUR)
        file.write(struct.pack(">H", count - 1))


def rewrite(path: Path, table_of: Record, **values: object) -> None:
    """Replace values of a row together with its checksum, as a program with a mistake would."""
    row = encode(table_of, 1, 1_790_000_000.0)
    by_name = {**dict(zip(row.table.names, row.values, strict=False)), **values}
    told = [by_name[name] for name in row.table.names]
    with sqlite3.connect(path) as connection:
        connection.execute(row.table.insert, (*told, checksum(row.table.name, *told)))
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_short, id="cut short"),
        pytest.param(overwrite, id="no database"),
        pytest.param(other_database, id="a database of something else"),
        pytest.param(lambda p: keep_only_the_log(p, is_emptied=False), id="only its log is left"),
        pytest.param(lambda p: keep_only_the_log(p, is_emptied=True), id="emptied beside its log"),
        pytest.param(lose_a_row, id="a row is gone"),
        pytest.param(lambda p: change(p, "DROP TABLE decisions"), id="a table is missing"),
        pytest.param(lambda p: change(p, "ALTER TABLE fills ADD COLUMN mood"), id="a column too many"),
        pytest.param(lambda p: change(p, "UPDATE positions SET count = '11'"), id="a changed count"),
        pytest.param(lambda p: change(p, "UPDATE decisions SET detail = ''"), id="a changed decision"),
        pytest.param(lambda p: change(p, "PRAGMA user_version = 9"), id="a changed version"),
        pytest.param(lambda p: change(p, "PRAGMA user_version = 0"), id="a version that is gone"),
        pytest.param(
            lambda p: change(p, "UPDATE meta SET value = 'key-2' WHERE key = 'account'"),
            id="a changed account",
        ),
        pytest.param(lambda p: change(p, "DELETE FROM meta WHERE key = 'account'"), id="no account"),
        pytest.param(lambda p: rewrite(p, position(), count="ten"), id="a count that is no number"),
        pytest.param(lambda p: rewrite(p, position(), count="Infinity"), id="a count without end"),
        pytest.param(lambda p: rewrite(p, episode(), reason="a whim"), id="an unknown reason"),
        pytest.param(lambda p: rewrite(p, rule_state(), break_even_armed=2), id="neither yes nor no"),
    ],
)
def test_a_damaged_file_is_set_aside(
    rig: Rig, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    rig.written(*one_of_each())
    rig.journal.stop()
    damage(rig.path)
    before = rig.path.stat().st_size if rig.path.exists() else None
    rig.journal = rig.opened()
    assert rig.journal.was_damaged
    assert events(caplog) == ["journal_damaged"]
    assert caplog.records[0].levelno == logging.CRITICAL
    assert rig.journal.load() == Remembered()
    aside = caplog.records[0].event_fields["set_aside"]  # type: ignore[attr-defined]
    if before is not None:
        assert aside.stat().st_size == before
    assert {p.name.removeprefix(aside.name) for p in rig.path.parent.glob(f"{aside.name}*")}
    rig.written(position())
    assert rig.again().positions == (position(),)
    assert not rig.journal.was_damaged


def test_two_damaged_files_of_one_second_are_both_kept(rig: Rig) -> None:
    for _ in range(2):
        rig.journal.stop()
        overwrite(rig.path)
        rig.journal = rig.opened()
    assert len(list(rig.path.parent.glob("*.damaged-*"))) == 2


def everything(path: Path) -> list[object]:
    """All rows of all tables but the one that changes with each opening."""
    return [rows(path, f"SELECT * FROM {table.name}") for table in TABLES.values()]


def filled(path: Path) -> Journal:
    journal = Journal.open(path, FakeClock(), account=ACCOUNT)
    for number in range(60):
        journal.write([episode(f"e{number}"), attempt(f"e{number}-1", of=f"e{number}"), decision(number)])
        journal.write([order(f"o{number}"), fill(f"f{number}"), position(f"{T}{number}")])
        journal.write([transition(number), rule_state(f"{T}{number}"), ledger()])
        journal.run_once()
    return journal


def test_a_flipped_byte_never_passes_for_data(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    filled(whole).stop()
    journal = Journal.open(whole, FakeClock(), account=ACCOUNT)
    told = journal.load()
    journal.stop()
    content, kept = whole.read_bytes(), everything(whole)
    rng = random.Random(20261122)
    schema = content.index(b"CREATE TABLE")  # where a broken letter once ended the process
    offsets = [*range(100), *range(schema, schema + 60), *(rng.randrange(len(content)) for _ in range(200))]
    set_aside = 0
    for number, offset in enumerate(offsets):
        path = tmp_path / f"flip-{number}" / "journal"
        path.parent.mkdir()
        flipped = content[offset] ^ rng.randrange(1, 256)
        path.write_bytes(content[:offset] + bytes([flipped]) + content[offset + 1 :])
        found = Journal.open(path, FakeClock(), account=ACCOUNT)
        remembered = found.load()
        found.stop()
        if found.was_damaged:
            set_aside += 1
            assert remembered == Remembered()
        else:
            assert replace(remembered, written_at=None) == replace(told, written_at=None), offset
            assert everything(path) == kept, offset
        shutil.rmtree(path.parent)
    assert set_aside > 60


def test_a_flipped_byte_in_the_log_never_passes_for_data(tmp_path: Path) -> None:
    """The last transaction of the log may be taken for one that a power cut tore: it then says so."""
    whole = tmp_path / "whole"
    journal = filled(whole)
    log = whole.with_name("whole-wal")
    content, logged = whole.read_bytes(), log.read_bytes()
    told = {len(journal.load().episodes)}
    journal.stop()
    rng = random.Random(20261122)
    offsets = [*range(32), *(rng.randrange(len(logged)) for _ in range(100)), len(logged) - 50]
    outcomes = {"same": 0, "damaged": 0, "tail": 0}
    for number, offset in enumerate(offsets):
        path = tmp_path / f"flip-{number}" / "journal"
        path.parent.mkdir()
        path.write_bytes(content)
        flipped = logged[offset] ^ rng.randrange(1, 256)
        path.with_name("journal-wal").write_bytes(logged[:offset] + bytes([flipped]) + logged[offset + 1 :])
        found = Journal.open(path, FakeClock(), account=ACCOUNT)
        episodes = len(found.load().episodes)
        found.stop()
        if found.was_damaged:
            outcomes["damaged"] += 1
            assert episodes == 0
        elif {episodes} == told:
            outcomes["same"] += 1
        else:
            outcomes["tail"] += 1
            assert episodes == 59, offset
        shutil.rmtree(path.parent)
    assert outcomes["damaged"] > 100
    assert outcomes["tail"] >= 1


# --- trouble after the start --------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_that_fits(rig: Rig) -> None:
    rig.written(episode(), attempt())
    rig.disk.fill_up()
    wanted = 0
    while rig.journal.status().ok:
        wanted += 1
        assert wanted < 10_000
        rig.journal.write([fill(f"f{wanted}"), transition(wanted)])
        rig.journal.run_once()
    assert "SQLITE_FULL" in rig.journal.status().why
    for _ in range(5):
        wanted += 1
        rig.journal.write([fill(f"f{wanted}"), transition(wanted), position(count=str(wanted))])
        rig.retry()
    status = rig.journal.status()
    assert (status.ok, status.dropped) == (False, 0)
    assert status.waiting >= 11
    rig.disk.heal()
    rig.retry()
    status = rig.journal.status()
    assert (status.ok, status.why, status.waiting) == (True, "", 0)
    assert rows(rig.path, "SELECT at FROM transitions ORDER BY seq") == [
        (float(n),) for n in range(1, wanted + 1)
    ]
    remembered = rig.again()
    assert len(remembered.fills) == wanted
    assert remembered.positions == (position(count=str(wanted)),)
    assert remembered.episodes == (episode(),)


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_CORRUPT"])
@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
def test_a_failed_transaction_is_made_up_for_on_a_new_connection(rig: Rig, statement: str, name: str) -> None:
    rig.written(episode())
    rig.disk.fail_at(statement, disk_error(name))
    rig.fail(attempt(), transition())
    with pytest.raises(sqlite3.ProgrammingError):  # closed
        rig.disk.opened[0].execute("SELECT 1")
    rig.disk.heal()
    rig.clock.advance(RETRY_S - 0.1)
    rig.journal.run_once()
    assert not rig.journal.status().ok, "not tried again so soon"
    rig.clock.advance(0.1)
    rig.journal.run_once()
    assert rig.journal.status().ok
    assert rows(rig.path, "SELECT count(*) FROM transitions") == [(1,)]
    assert rig.again().attempts == (attempt(),)


def test_what_was_on_disk_in_spite_of_the_error_is_there_once(rig: Rig) -> None:
    def fail_after(sql: str) -> None:
        if sql.startswith("COMMIT"):
            raise disk_error()

    rig.disk.after = fail_after
    rig.fail(transition(1), decision(1))
    rig.disk.heal()
    rig.journal.write([transition(2)])
    rig.retry()
    assert rows(rig.path, "SELECT at FROM transitions ORDER BY seq") == [(1.0,), (2.0,)]
    assert rows(rig.path, "SELECT count(*) FROM decisions") == [(1,)]


def test_an_exit_closed_during_the_trouble_is_closed_afterwards(rig: Rig) -> None:
    rig.written(episode(), attempt())
    rig.disk.fail_at("COMMIT", disk_error())
    rig.fail(episode(closed_at=5.0, state="closed"), attempt(why="filled"))
    rig.disk.heal()
    rig.retry()
    assert rows(rig.path, "SELECT closed_at FROM episodes") == [(5.0,)]
    assert rows(rig.path, "SELECT why FROM attempts") == [("filled",)]
    assert rig.again().episodes == ()


def test_the_newest_word_survives_trouble_in_the_middle_of_a_write(rig: Rig) -> None:
    def tell_and_fail(sql: str) -> None:
        if sql.startswith("COMMIT"):
            rig.disk.heal()
            rig.journal.write([position(count="2"), transition(2)])
            raise disk_error()

    rig.disk.before = tell_and_fail
    rig.fail(position(count="1"), transition(1))
    rig.retry()
    assert rows(rig.path, "SELECT at FROM transitions ORDER BY seq") == [(1.0,), (2.0,)]
    assert rig.again().positions == (position(count="2"),)


def test_one_alarm_then_a_reminder_a_minute_then_the_all_clear(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rig.disk.fail_at("COMMIT", disk_error())
    rig.fail(position())
    down_since = rig.journal.status().down_since
    for _ in range(20):
        rig.retry()
        rig.journal.commit([position()])
    assert events(caplog) == ["journal_down"]
    assert caplog.records[0].levelno == logging.CRITICAL
    assert rig.journal.status().down_since == down_since
    for _ in range(20):
        rig.retry()
    assert events(caplog) == ["journal_down", "journal_down"]
    rig.disk.heal()
    rig.retry()
    assert events(caplog)[2:] == ["journal_recovered"]
    rig.disk.fail_at("COMMIT", disk_error())
    rig.fail(position())
    assert events(caplog)[3:] == ["journal_down"], "another outage is news at once"


def test_an_exit_waits_once_for_a_disk_that_hangs_and_then_never(running: Running) -> None:
    running.journal.commit([episode()])
    released = running.disk.hang_at("COMMIT")
    started = time.monotonic()
    assert not running.journal.commit([attempt()])
    assert COMMIT_S_MAX <= time.monotonic() - started < COMMIT_S_MAX + 0.5
    started = time.monotonic()
    for number in range(100):
        assert not running.journal.commit([transition(number)])
    assert time.monotonic() - started < COMMIT_S_MAX / 2
    status = running.journal.status()
    assert (status.ok, status.waiting) == (False, 101)
    running.journal.stop()
    started = time.monotonic()
    assert not running.journal.join(0.2)
    assert time.monotonic() - started < 1.0
    released.set()
    assert running.journal.join(10.0)
    assert rows(running.path, "SELECT count(*) FROM transitions") == [(100,)]
    assert rows(running.path, "SELECT count(*) FROM attempts") == [(1,)]


def test_a_disk_that_answers_again_is_trusted_again(running: Running) -> None:
    released = running.disk.hang_at("COMMIT")
    assert not running.journal.commit([episode()])
    released.set()
    assert running.until(lambda: running.journal.status().ok)
    assert running.journal.commit([attempt()])
    assert len(running.disk.opened) == 1


def test_a_hanging_disk_is_noticed_without_anybody_waiting(rig: Rig) -> None:
    seen = []

    def look(sql: str) -> None:
        if sql.startswith("COMMIT"):
            rig.clock.advance(COMMIT_S_MAX + 0.1)
            seen.append(rig.journal.status())

    rig.disk.before = look
    rig.written(position())
    assert [(s.ok, s.down_since is None, s.waiting) for s in seen] == [(False, False, 1)]
    assert rig.journal.status().ok


def test_a_pass_that_breaks_down_ends_neither_the_thread_nor_the_records(running: Running) -> None:
    running.disk.fail_at("INSERT", RuntimeError("a mistake of ours"))
    assert not running.journal.commit([position()])
    assert not running.journal.status().ok
    running.disk.heal()
    assert running.until(lambda: running.journal.status().ok)
    assert rows(running.path, "SELECT count(*) FROM positions") == [(1,)]


def test_those_who_come_while_a_write_fails_do_not_wait(running: Running) -> None:
    is_writing, go_on = threading.Event(), threading.Event()

    def fail_later(sql: str) -> None:
        if sql.startswith("COMMIT"):
            is_writing.set()
            assert go_on.wait(10.0)
            raise disk_error()

    running.disk.before = fail_later
    took: list[float] = []

    def commit() -> None:
        started = time.monotonic()
        assert not running.journal.commit([position()])
        took.append(time.monotonic() - started)

    first, second = threading.Thread(target=commit), threading.Thread(target=commit)
    first.start()
    assert is_writing.wait(5.0)
    second.start()
    assert running.until(lambda: running.journal.status().waiting == 2)
    go_on.set()
    first.join(5.0)
    second.join(5.0)
    assert len(took) == 2
    assert max(took) < COMMIT_S_MAX


def lose_file(path: Path) -> None:
    path.unlink()


def lose_everything(path: Path) -> None:
    for part in path.parent.iterdir():
        part.unlink()


def lose_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def put_copy_in_its_place(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


@pytest.mark.parametrize(
    "lose",
    [lose_file, lose_everything, lose_log, put_copy_in_its_place],
    ids=["file deleted", "all deleted", "log deleted", "replaced by a copy"],
)
@pytest.mark.parametrize("is_idle", [False, True], ids=["noticed by a write", "noticed while idle"])
def test_a_file_that_is_taken_away_is_written_anew(
    rig: Rig, lose: Callable[[Path], None], is_idle: bool
) -> None:
    live = [episode(), attempt(), rule_state(), position(), order(), fill(), ledger()]
    rig.written(*live, episode("done"), attempt("done-1", of="done"))
    rig.written(episode("done", closed_at=5.0))
    lose(rig.path)
    if is_idle:
        rig.clock.advance(5.0)
        rig.journal.run_once()
        assert not rig.journal.status().ok
    else:
        rig.fail(transition())
    rig.retry()
    assert rig.journal.status().ok
    remembered = rig.again()
    assert not rig.journal.was_damaged
    assert replace(remembered, written_at=None) == Remembered(
        (episode(),), (attempt(),), (rule_state(),), (position(),), (order(),), (fill(),), (ledger(),)
    )


def test_an_old_copy_put_in_its_place_brings_no_old_exit_back(rig: Rig) -> None:
    rig.written(episode(), attempt())
    rig.journal.stop()
    old = rig.path.with_name("backup")
    shutil.copy(rig.path, old)
    rig.journal = rig.opened()
    rig.written(episode(closed_at=5.0))
    old.rename(rig.path)
    rig.fail(position())
    rig.disk.fail_at("COMMIT", disk_error("SQLITE_FULL"))
    for _ in range(3):
        rig.retry()
    rig.disk.heal()
    rig.retry()
    assert rig.again().episodes == ()
    assert rig.journal.load().positions == (position(),)
    assert len(list(rig.path.parent.glob("*.replaced-*[0-9]"))) == 1, "set aside once, not at each try"


def test_what_waits_is_bounded_and_what_is_lost_is_counted(rig: Rig) -> None:
    rig.disk.fail_at("BEGIN", disk_error())
    rig.fail(position())
    rig.journal.write([decision(n) for n in range(ADDED_MAX + 10)])
    assert rig.journal.status().dropped == 10
    rig.journal.write([order(f"o{n}") for n in range(REPLACING_MAX + 10)])
    status = rig.journal.status()
    assert status.waiting == ADDED_MAX + REPLACING_MAX
    assert status.dropped == 20, "the position is live and not lost; ten orders are"
    rig.disk.heal()
    rig.retry()
    remembered = rig.again()
    assert remembered.positions == (position(),)
    assert len(remembered.orders) == RECENT_MAX
    assert rows(rig.path, "SELECT min(at), max(at) FROM decisions") == [(10.0, float(ADDED_MAX + 9))]


# --- real disks ---------------------------------------------------------------------------------------

can_mount = (
    os.geteuid() == 0
    and shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True, timeout=10).returncode
    == 0
)
mounting = pytest.mark.skipif(not can_mount, reason="mounting needs root")


def fill_to_the_last_byte(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


@mounting
def test_a_disk_filled_to_the_last_byte(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        rig = Rig(disk / "journal")
        rig.written(episode(), attempt())
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            fill_to_the_last_byte(ballast)
        number = 0
        while rig.journal.status().ok:
            number += 1
            assert number < 10_000
            rig.journal.write([fill(f"f{number}")])
            rig.journal.run_once()
        rig.retry()
        assert not rig.journal.status().ok
        with pytest.raises(ConfigError):
            Journal.open(disk / "second", rig.clock, account=ACCOUNT)
        ballast.unlink()
        rig.retry()
        assert rig.journal.status().ok
        remembered = rig.again()
        assert len(remembered.fills) == number
        assert remembered.attempts == (attempt(),)
        rig.close()


@mounting
def test_a_disk_that_turns_read_only_and_back(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        rig = Rig(disk / "journal")
        rig.written(episode())
        rig.disk.fail_at("COMMIT", disk_error())
        rig.fail(attempt())
        rig.disk.heal()
        remount(disk, "ro")
        rig.retry()
        assert not rig.journal.status().ok
        with pytest.raises(ConfigError):
            Journal.open(disk / "journal", rig.clock, account=ACCOUNT)
        with pytest.raises(ConfigError):
            Journal.open(disk / "second", rig.clock, account=ACCOUNT)
        remount(disk, "rw")
        rig.retry()
        assert rig.journal.status().ok
        assert rig.again().attempts == (attempt(),)
        assert [p.name for p in disk.iterdir() if "damaged" in p.name or "replaced" in p.name] == []
        rig.close()


def test_a_limit_on_the_size_of_files(path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.store.journal_child", "within", str(path), "400000"],
        cwd=PROJECT, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    durable, _, why = child.stdout.partition(" ")
    assert "SQLITE_IOERR" in why or "SQLITE_FULL" in why
    journal = Journal.open(path, FakeClock(), account=ACCOUNT)
    assert not journal.was_damaged
    numbers = {a.number for a in journal.load().attempts}
    assert numbers >= set(range(1, int(durable) + 1))
    assert int(durable) > 5
    journal.stop()


def test_killed_at_any_instant_nothing_that_was_committed_is_missing(path: Path) -> None:
    rng = random.Random(20261122)
    total = 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.store.journal_child", "for-ever", str(path)],
            cwd=PROJECT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        first = child.stdout.readline()
        assert first == "1\n"
        threading.Event().wait(rng.uniform(0.0, 0.08))
        child.send_signal(signal.SIGKILL)
        rest = child.communicate(timeout=10)[0]
        printed = [int(line) for line in (first + rest).splitlines(keepends=False)]
        assert rows(path, "PRAGMA quick_check") == [("ok",)]
        assert rows(path, "SELECT count(DISTINCT seq) - count(*) FROM transitions") == [(0,)]
        journal = Journal.open(path, SystemClock(), account=ACCOUNT)
        assert not journal.was_damaged
        numbers = {a.number for a in journal.load().attempts}
        journal.stop()
        assert numbers >= set(printed)
        total += len(printed)
        for part in path.parent.iterdir():
            part.unlink()
    assert total > 20


# --- what is kept -------------------------------------------------------------------------------------


def tidied(rig: Rig) -> None:
    """So many idle passes that everything due has been done."""
    for _ in range(30):
        rig.clock.advance(5.0)
        rig.journal.run_once()
        rig.journal.run_once()
        assert rig.journal.status().ok


def test_history_is_deleted_after_a_month_and_what_is_open_is_not(rig: Rig) -> None:
    rig.written(*one_of_each(), episode("done"), attempt("done-1", of="done"), transition(9, "done"))
    rig.written(episode("done", closed_at=5.0), position("GONE", count="0"), rule_state("GONE"))
    rig.written(*(decision(n) for n in range(2_000)), position("HELD"), rule_state("HELD"))
    rig.written(entry("open"), entry("over", state=EntryState.DONE), hedge("over", ended_at=5.0))
    rig.written(paper("HELD"), replace(paper("GONE"), taken_off=Decimal(0), opened=Decimal(0)))
    rig.clock.advance(KEPT_S - 100.0)
    tidied(rig)
    assert rows(rig.path, "SELECT count(*) FROM episodes") == [(2,)]
    assert rows(rig.path, "SELECT count(*) FROM decisions") == [(2_001,)]
    rig.written(fill("new"), order("new"))
    rig.clock.advance(3_700.0)
    tidied(rig)
    left = {t.name: rows(rig.path, f"SELECT count(*) FROM {t.name}")[0][0] for t in TABLES.values()}
    assert left == {
        "episodes": 1, "attempts": 1, "transitions": 1, "rule_states": 2, "positions": 2,
        "orders": 1, "fills": 1, "ledgers": 1, "decisions": 0, "results": 1, "entries": 2, "hedges": 1,
        "paper": 2,
    }  # fmt: skip
    remembered = rig.again()
    assert remembered.episodes == (episode(),)
    assert {p.ticker for p in remembered.positions} == {T, "HELD"}
    assert [f.trade_id for f in remembered.fills] == ["new"]


def test_a_flood_of_decisions_pushes_the_oldest_out(rig: Rig) -> None:
    for start in range(0, ADDED_KEPT_MAX + 600, 10_000):
        rig.written(*(decision(n) for n in range(start, min(start + 10_000, ADDED_KEPT_MAX + 600))))
    tidied(rig)
    assert rows(rig.path, "SELECT count(*), min(at) FROM decisions") == [(ADDED_KEPT_MAX, 600.0)]


def test_twenty_thousand_updates_leave_small_files(rig: Rig) -> None:
    for number in range(20_000):
        rig.journal.write([position(f"{T}{number % 100}", count=str(number + 1)), rule_state()])
        if number % 4 == 3:
            rig.journal.run_once()
    tidied(rig)
    assert rig.journal.status().commits == 5_000
    file, log = rig.path.stat().st_size, rig.path.with_name(f"{rig.path.name}-wal").stat().st_size
    assert file < 500_000
    assert log < WAL_BYTES_MAX
    assert rig.journal.status().size_bytes == file + log


def test_a_log_that_a_reader_made_grow_is_cut_when_he_is_gone(rig: Rig) -> None:
    rig.written(position())
    reader = sqlite3.connect(rig.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM positions").fetchall()
    log = rig.path.with_name(f"{rig.path.name}-wal")
    number = 0
    while log.stat().st_size <= WAL_BYTES_MAX:
        number += 1
        rig.written(*(fill(f"f{number}-{n}") for n in range(500)))
    started = time.monotonic()
    tidied(rig)
    assert time.monotonic() - started < 5.0, "nobody waits for a reader"
    assert log.stat().st_size > WAL_BYTES_MAX
    reader.close()
    tidied(rig)
    assert log.stat().st_size == 0


def test_the_mirror_forgets_what_is_done(rig: Rig) -> None:
    for number in range(50):
        rig.written(episode(f"e{number}"), attempt(f"e{number}-1", of=f"e{number}"))
        rig.written(episode(f"e{number}", closed_at=5.0), fill(f"f{number}"))
    assert rig.journal.load().episodes == ()
    assert rig.journal.load().attempts == ()
    assert len(rig.journal.load().fills) == 50
    rig.clock.advance(3 * DAY_S)
    tidied(rig)
    assert rig.journal.load().fills == ()


def test_the_ledger_of_a_week(rig: Rig) -> None:
    days = [f"2026-09-{day:02}" for day in range(10, 22)]
    rig.written(*(LedgerRecord(day, Decimal(1), Decimal(0)) for day in reversed(days)))
    assert [found.day for found in rig.again().ledgers] == days[-LEDGER_DAYS - 1 :]


def test_rows_know_their_table() -> None:
    assert encode(position(), 1, 1.0).table is POSITIONS
    assert encode(episode(), 1, 1.0).table is EPISODES
