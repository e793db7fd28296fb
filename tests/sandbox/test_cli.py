"""The command line: the four lines, signals, the end of standard input, bad arguments."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from base.sandbox.cli import main, parse_options

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20


def start(key_dir: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "base.sandbox", "--key-dir", str(key_dir), *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "stdin"])
def test_it_announces_itself_and_stops_when_asked(key_dir: Path, way: str) -> None:
    with start(key_dir, *(["--exit-with-stdin"] if way == "stdin" else [])) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            lines = [process.stdout.readline().split() for _ in range(5)]
            assert [line[0] for line in lines] == ["REST", "WS", "KEY_ID", "KEY_FILE", "ready"]
            assert lines[0][1].startswith("http://127.0.0.1:")
            assert lines[0][1].endswith("/trade-api/v2")
            assert lines[1][1].startswith("ws://127.0.0.1:")
            assert Path(lines[3][1]).is_absolute()
            if way == "stdin":
                process.stdin.close()
            else:
                process.send_signal(getattr(signal, way))
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()


def test_the_key_is_private_and_reused(tmp_path: Path) -> None:
    from base.sandbox.signatures import open_key_dir

    folder = tmp_path / "state" / "sandbox"
    first = open_key_dir(folder)
    again = open_key_dir(folder)
    assert first.key_id == again.key_id
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600


def test_the_key_directory_follows_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIR", "elsewhere")
    assert parse_options([]).key_dir == Path("elsewhere/sandbox")
    monkeypatch.delenv("STATE_DIR")
    assert parse_options([]).key_dir == Path("state/sandbox")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--port", "many"],
        ["--speed", "0"],
        ["--tape", "nowhere.jsonl"],
        ["--scenario", "nowhere.toml"],
        ["--nonsense"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_bad_arguments_end_with_2(
    arguments: list[str], key_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--key-dir", str(key_dir), *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err


def test_a_broken_key_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("not a key")
    assert main(["--key-dir", str(tmp_path)]) == 2
