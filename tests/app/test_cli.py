"""Each command calls its part with the right arguments, and each end has its exit code."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from base.app.cli import EntryPoints, main
from base.app.config import Config
from base.app.progress import ProgressBar
from base.app.status_client import NoAnswerError
from base.app.status_watch import Screen, watch_status
from base.clock import Clock, SystemClock
from base.errors import AlreadyRunningError, ConfigError, InvariantError, TransientError
from base.sandbox.cli import TapeProgress
from base.sandbox.exchange import Exchange
from base.sandbox.tape import TapePlayer, open_tape
from tests.fakes.clock import FakeClock

PROJECT = Path(__file__).parents[2]
TOKEN = "a-long-and-secret-token"
TICKER = "KXHIGHNY-26NOV22-T50"
CLEAN_ENVIRON = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.raiseExceptions)
    yield
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


class Recorder:
    """Entry points that remember how they were called."""

    def __init__(self, result: int | BaseException = 0) -> None:
        self._result = result
        self.calls: list[tuple[Any, ...]] = []
        self.entry_points = EntryPoints(
            daemon=lambda config: self._note("daemon", config),
            checks=lambda config, out: self._note("checks", config, out),
            alerts=lambda config, is_test, out: self._note("alerts", config, is_test),
            flatten=lambda config, ticker, yes: self._note("flatten", config, ticker, yes),
            sandbox=lambda arguments: self._note("sandbox", arguments),
            replay=lambda arguments: self._note("replay", arguments),
        )

    def _note(self, *call: Any) -> int:
        self.calls.append(call)
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def run(
    *arguments: str,
    directory: Path,
    recorder: Recorder | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
) -> int:
    return main(
        list(arguments),
        entry_points=(recorder or Recorder()).entry_points,
        environ=environ or {},
        directory=directory,
        clock=clock,
    )


class TestCommands:
    @pytest.mark.parametrize("arguments", [(), ("run",)])
    def test_run_is_the_default(self, arguments: tuple[str, ...], tmp_path: Path) -> None:
        recorder = Recorder()
        (tmp_path / ".env").write_text("UI_PORT=1234\n")
        assert run(*arguments, directory=tmp_path, recorder=recorder) == 0
        ((name, config),) = recorder.calls
        assert name == "daemon"
        assert isinstance(config, Config)
        assert config.ui_port == 1234

    @pytest.mark.parametrize(("arguments", "is_test"), [(("alerts",), False), (("alerts", "--test"), True)])
    def test_alerts_sends_only_when_asked(
        self, arguments: tuple[str, ...], is_test: bool, tmp_path: Path
    ) -> None:
        recorder = Recorder()
        assert run(*arguments, directory=tmp_path, recorder=recorder) == 0
        ((name, _, asked),) = recorder.calls
        assert (name, asked) == ("alerts", is_test)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("flatten",), (None, False)),
            (("flatten", "--ticker", TICKER), (TICKER, False)),
            (("flatten", "--ticker", TICKER, "--yes"), (TICKER, True)),
            (("flatten", "--yes"), (None, True)),
        ],
    )
    def test_flatten_never_widens_what_was_asked(
        self, arguments: tuple[str, ...], expected: tuple[Any, ...], tmp_path: Path
    ) -> None:
        recorder = Recorder()
        assert run(*arguments, directory=tmp_path, recorder=recorder) == 0
        ((name, _, *rest),) = recorder.calls
        assert (name, tuple(rest)) == ("flatten", expected)

    @pytest.mark.parametrize("command", ["sandbox", "replay"])
    def test_own_options_are_passed_on_without_a_configuration(self, command: str, tmp_path: Path) -> None:
        recorder = Recorder()
        (tmp_path / ".env").write_text("UI_PORT=wrong\n")
        arguments = ("--port", "0", "--help", "tape.jsonl")
        assert run(command, *arguments, directory=tmp_path, recorder=recorder) == 0
        assert recorder.calls == [(command, list(arguments))]

    def test_check_writes_to_standard_output(self, tmp_path: Path) -> None:
        recorder = Recorder(5)
        assert run("check", directory=tmp_path, recorder=recorder) == 5
        ((name, _, out),) = recorder.calls
        assert (name, out) == ("checks", sys.stdout)

    @pytest.mark.parametrize(
        "arguments", [("rnu",), ("flatten", "--tick", "T"), ("explain",), ("run", "--fast"), ("--yes",)]
    )
    def test_mistyped_command_does_nothing(
        self, arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder = Recorder()
        assert run(*arguments, directory=tmp_path, recorder=recorder) == 2
        assert recorder.calls == []
        assert "usage" in capsys.readouterr().err


class TestExitCodes:
    @pytest.mark.parametrize(
        ("command", "error", "code"),
        [
            ("run", ConfigError(["one", "two"]), 2),
            ("run", AlreadyRunningError("process 7 runs"), 3),
            ("run", TransientError("gone"), 4),
            ("run", InvariantError("broken"), 4),
            ("run", BrokenPipeError(), 4),
            ("run", ValueError("a bug"), 4),
            ("run", ModuleNotFoundError("no", name="aiohttp"), 4),
            ("check", ConfigError(["one"]), 2),
            ("flatten", TransientError("gone"), 5),
            ("flatten", AlreadyRunningError("process 7 runs"), 3),
            ("flatten", ValueError("a bug"), 5),
            ("flatten", KeyboardInterrupt(), 5),
            ("run", KeyboardInterrupt(), 0),
            ("sandbox", ModuleNotFoundError("no", name="aiohttp"), 5),
        ],
    )
    def test_error_has_its_code(
        self,
        command: str,
        error: BaseException,
        code: int,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert run(command, directory=tmp_path, recorder=Recorder(error)) == code
        captured = capsys.readouterr()
        assert captured.err
        assert captured.out == ""

    @pytest.mark.parametrize("code", [0, 2, 3, 4, 5])
    def test_code_of_the_daemon_is_passed_on(self, code: int, tmp_path: Path) -> None:
        assert run(directory=tmp_path, recorder=Recorder(code)) == code

    def test_every_configuration_error_is_a_line_of_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder = Recorder()
        environ = {"UI_PORT": "x", "STOP_LOSS_PC": "40", "LOG_LEVEL": "loud"}
        assert run(directory=tmp_path, recorder=recorder, environ=environ) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert all(any(name in line for line in lines) for name in environ)
        assert recorder.calls == []

    def test_traceback_of_a_bug_shows_no_secret(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder = Recorder(ValueError(f"token {TOKEN}"))
        run(directory=tmp_path, recorder=recorder, environ={"UI_TOKEN": TOKEN})
        err = capsys.readouterr().err
        assert "ValueError" in err
        assert TOKEN not in err


DOCUMENT = {
    "env": "sandbox",
    "trading_mode": "live",
    "trading_state": "active",
    "coverage": {"open": 1, "protected": 1, "unprotected": []},
    "feed": {"state": "live"},
    "positions": [{"ticker": TICKER, "outcome_side": "yes", "count": "10.00", "protected": True}],
}


class Seen(NamedTuple):
    path: str
    authorization: str
    host: str


@contextmanager
def daemon_page(status: int = 200, body: bytes | None = None) -> Iterator[tuple[int, list[Seen]]]:
    """A page on a free port, and the requests that it saw."""
    seen: list[Seen] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(Seen(self.path, self.headers.get("Authorization", ""), self.headers.get("Host", "")))
            if body is not None:
                content = body
            elif self.path.startswith("/api/explain/"):
                content = json.dumps({"ticker": TICKER, "rows": []}).encode()
            else:
                content = json.dumps(DOCUMENT).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()
            thread.join(10)


class TestStatus:
    def test_json_is_the_document_itself(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with daemon_page() as (port, seen):
            environ = {"UI_PORT": str(port), "UI_TOKEN": TOKEN}
            assert run("status", "--json", directory=tmp_path, environ=environ) == 0
        assert json.loads(capsys.readouterr().out) == DOCUMENT
        assert seen == [("/api/status", f"Bearer {TOKEN}", f"127.0.0.1:{port}")]

    def test_tables_name_the_positions(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with daemon_page() as (port, seen):
            assert run("status", directory=tmp_path, environ={"UI_PORT": str(port)}) == 0
        assert "KXHIGHNY" in capsys.readouterr().out
        assert seen == [("/api/status", "", f"127.0.0.1:{port}")]

    def test_daemon_that_listens_everywhere_is_found_here(self, tmp_path: Path) -> None:
        with daemon_page() as (port, seen):
            environ = {"UI_PORT": str(port), "UI_TOKEN": TOKEN, "UI_HOST": "0.0.0.0"}
            assert run("status", "--json", directory=tmp_path, environ=environ) == 0
        assert seen[0].host == f"127.0.0.1:{port}"

    def test_watch_goes_on_until_the_daemon_ends_or_the_user_does(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class ImpatientUser(SystemClock):
            passes = 0

            def wait(self, event: threading.Event, timeout_s: float) -> bool:
                self.passes += 1
                if self.passes == 3:
                    raise KeyboardInterrupt
                return False

        with daemon_page() as (port, seen):
            environ = {"UI_PORT": str(port)}
            code = run(
                "status", "--json", "--watch", directory=tmp_path, environ=environ, clock=ImpatientUser()
            )
        assert code == 0
        assert len(seen) == 3
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [DOCUMENT] * 3

    @pytest.mark.parametrize(
        ("status", "body", "says"),
        [
            (401, b'{"error": "token"}', "UI_TOKEN"),
            (500, b'{"error": "see its log"}', "see its log"),
            (200, b"<html>another program</html>", "UI_PORT"),
            (200, b"[]", "UI_PORT"),
        ],
    )
    def test_answer_that_is_no_status_says_what_to_do(
        self, status: int, body: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with daemon_page(status, body) as (port, _):
            assert run("status", directory=tmp_path, environ={"UI_PORT": str(port)}) == 5
        captured = capsys.readouterr()
        assert says in captured.err
        assert captured.out == ""

    def test_no_daemon(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with daemon_page() as (port, _):
            free = port
        assert run("status", directory=tmp_path, environ={"UI_PORT": str(free)}) == 5
        assert "UI_PORT" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestWatch:
    def watch(self, *answers: Any) -> list[str]:
        left, shown = list(answers), []

        def read() -> dict[str, Any]:
            answer = left.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return {"is": answer}

        watch_status(read, lambda document: shown.append(document["is"]), shown.append, FakeClock())
        assert not left
        return shown

    def test_it_survives_a_restart_of_the_daemon_and_shows_nothing_old_meanwhile(self) -> None:
        gone = NoAnswerError("gone")
        first, out, out_again, back = self.watch("first", gone, gone, "back", KeyboardInterrupt())
        assert (first, back) == ("first", "back")
        assert out == out_again, "the time is that of the first answer that was missed"
        assert out.startswith("no answer since ")

    def test_it_says_at_once_that_there_is_no_daemon_at_all(self) -> None:
        with pytest.raises(NoAnswerError):
            self.watch(NoAnswerError("gone"))

    def test_ctrl_c_in_the_middle_of_a_read_is_an_end_as_asked(self) -> None:
        assert self.watch("first", KeyboardInterrupt()) == ["first"]

    def test_the_most_important_stays_on_the_screen(self) -> None:
        out = Terminal()
        many = [DOCUMENT["positions"][0] | {"ticker": f"KX-{n}"} for n in range(60)]
        Screen(out, color=False).show(DOCUMENT | {"positions": many})
        lines = out.getvalue().splitlines()
        assert len(lines) == 24, "one for the cursor"
        assert lines[0].startswith("\x1b[HCOVERAGE")
        assert "more lines" in lines[-2]

    def test_an_outage_replaces_the_last_status_and_commands_no_terminal(self) -> None:
        out = Terminal()
        Screen(out, color=False).show_outage("bad \x1b]0;owned\x07 " + "x" * 200)
        text = out.getvalue()
        assert text.startswith("\x1b[HCOVERAGE NOT KNOWN")
        assert text.endswith("\x1b[J")
        assert "\x1b]" not in text
        assert "\x07" not in text


class TestProgress:
    def test_a_terminal_sees_how_far_it_is_and_gets_its_cursor_back(self) -> None:
        out = Terminal()
        with ProgressBar("positions flat", 7, out) as bar:
            bar.show(3)
            with bar.aside():
                assert out.getvalue().endswith("\x1b[2K"), "the line is free for something else"
        assert "3/7" in out.getvalue()
        assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")

    def test_a_pipe_gets_nothing(self) -> None:
        out = io.StringIO()
        with ProgressBar("positions flat", 7, out) as bar:
            bar.show(3)
            with bar.aside():
                bar.show(4)
        assert out.getvalue() == ""

    @pytest.mark.parametrize("is_seen", [True, False], ids=["terminal", "pipe"])
    def test_a_tape_shows_its_own_time(self, is_seen: bool, tmp_path: Path) -> None:
        path, start = tmp_path / "tape.jsonl", 1_790_000_000.0
        rows = [
            {
                "type": "_bbo",
                "recv_ts": 1_778_478_000 + second,
                "market_ticker": TICKER,
                "best_yes_bid": 40,
                "implied_yes_ask": 42,
            }
            for second in range(0, 50, 10)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = Terminal() if is_seen else io.StringIO()
        progress = TapeProgress(out)
        exchange = Exchange(balance=Decimal(1000), rng=random.Random(1), sink=lambda happening: None)
        tape = open_tape(path)
        player = TapePlayer(exchange, tape, start=start, side=None)
        progress.follow(player, tape, start)
        for second in (0, 20, 21, 40):
            player.step(start + second)
            progress.step(start + second)
        text = out.getvalue()
        assert ("tape at 2026-05-11 05:40:10 UTC" in text) is is_seen
        assert ("50%" in text) is is_seen
        assert ("tape played" in text) is is_seen
        assert ("\x1b[?25h" in text) is is_seen, "the cursor is back"


class TestExplain:
    def test_asks_for_the_ticker(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with daemon_page() as (port, seen):
            assert run("explain", TICKER, directory=tmp_path, environ={"UI_PORT": str(port)}) == 0
        assert TICKER in capsys.readouterr().out
        assert [request.path for request in seen] == [f"/api/explain/{TICKER}"]

    @pytest.mark.parametrize(("mode", "is_said"), [("paper", True), ("live", False), (None, False)])
    def test_a_paper_account_says_so(
        self, mode: str | None, is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = json.dumps({"ticker": TICKER, "trading_mode": mode, "rows": []}).encode()
        with daemon_page(200, body) as (port, _):
            assert run("explain", TICKER, directory=tmp_path, environ={"UI_PORT": str(port)}) == 0
        assert ("PAPER" in capsys.readouterr().out) is is_said

    def test_what_the_run_before_sold_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        exit_row = {"reason": "stop_loss", "state": "closed", "why": "filled", "filled": "10.00"}
        body = json.dumps({"ticker": TICKER, "rows": [], "exits": [exit_row]}).encode()
        with daemon_page(200, body) as (port, _):
            assert run("explain", TICKER, directory=tmp_path, environ={"UI_PORT": str(port)}) == 0
        assert "Left by stop loss" in capsys.readouterr().out

    def test_ticker_cannot_lead_elsewhere(self, tmp_path: Path) -> None:
        with daemon_page() as (port, seen):
            run("explain", "../status?x=/", directory=tmp_path, environ={"UI_PORT": str(port)})
        assert [request.path for request in seen] == ["/api/explain/..%2Fstatus%3Fx%3D%2F"]

    def test_unknown_ticker_is_a_failure(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with daemon_page(404, b'{"error": "not watched"}') as (port, _):
            assert run("explain", TICKER, directory=tmp_path, environ={"UI_PORT": str(port)}) == 5
        assert "not watched" in capsys.readouterr().err


def run_bot(
    *arguments: str, directory: Path, stdout: int = subprocess.PIPE, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(PROJECT / "run_bot.py"), *arguments],
        cwd=directory,
        env=CLEAN_ENVIRON | environ,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )


class TestProcess:
    def test_help_names_every_command(self, tmp_path: Path) -> None:
        result = run_bot("--help", directory=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        for command in ("run", "check", "alerts", "status", "explain", "flatten", "sandbox", "replay"):
            assert f"    {command}" in result.stdout

    def test_version(self, tmp_path: Path) -> None:
        result = run_bot("--version", directory=tmp_path)
        assert result.returncode == 0
        assert result.stdout.startswith("backstop ")

    def test_wrong_configuration_is_code_2_on_standard_error(self, tmp_path: Path) -> None:
        result = run_bot(directory=tmp_path, KALSHI_ENV="demo", STOP_LOSS_PCT="nan")
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 3, "stop, key id and key file"

    def test_env_file_of_the_working_directory_counts(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("STOP_LOS_PCT=1\n")
        result = run_bot("status", directory=tmp_path)
        assert result.returncode == 2
        assert "STOP_LOSS_PCT?" in result.stderr

    def test_no_daemon_is_code_5(self, tmp_path: Path) -> None:
        with daemon_page() as (port, _):
            free = port
        assert run_bot("status", directory=tmp_path, UI_PORT=str(free)).returncode == 5

    def test_terminal_without_unicode_gets_the_text_escaped(self, tmp_path: Path) -> None:
        rows = [{"at": "é", "decision": "é", "why": "é", "reason": "é", "detail": "é"}]
        with daemon_page(body=json.dumps({"rows": rows}).encode()) as (port, _):
            result = run_bot(
                "explain", TICKER, directory=tmp_path, UI_PORT=str(port), PYTHONIOENCODING="ascii"
            )
        assert (result.returncode, result.stderr) == (0, "")

    def test_closed_pipe_ends_quietly(self, tmp_path: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            with daemon_page() as (port, _):
                result = run_bot("status", "--json", directory=tmp_path, stdout=writer, UI_PORT=str(port))
        finally:
            os.close(writer)
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "code"), [([], 0), (["run"], 0), (["flatten", "--yes"], 5)], ids=["none", "run", "flatten"]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_comes_while_the_program_still_loads_is_a_stop(
    tmp_path: Path, command: list[str], code: int, number: int
) -> None:
    """Its own start file, with a package in place of ours that is stopped in the middle of its loading."""
    shutil.copy(PROJECT / "run_bot.py", tmp_path)
    package = tmp_path / "base" / "app"
    package.mkdir(parents=True)
    (package / "cli.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\nraise SystemExit(99)\n")
    start = [sys.executable, str(tmp_path / "run_bot.py"), *command]
    assert subprocess.run(start, cwd=tmp_path, env={}, timeout=30, check=False).returncode == code
