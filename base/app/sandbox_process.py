"""The embedded sandbox: the local exchange as a child process of its own."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from base.clock import Clock
from base.errors import ConfigError
from base.log import log_event

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 3.0
PROJECT_DIR = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class SandboxAddress:
    """Where a running sandbox is, and the key that it accepts."""

    rest_url: str
    ws_url: str
    key_id: str
    key_file: Path


class EmbeddedSandbox:
    """Starts and stops the process; it also ends by itself when this process dies, because its standard
    input is then closed."""

    def __init__(self, state_dir: Path, clock: Clock, extra_arguments: tuple[str, ...] = ()) -> None:
        self._state_dir = state_dir.resolve()
        self._key_dir = self._state_dir / "sandbox"
        self._clock = clock
        self._extra = extra_arguments
        self._process: subprocess.Popen[str] | None = None
        self._ready = threading.Event()
        self._lines: list[str] = []  # written by the reader threads until it serves
        self._is_serving = False

    def start(self) -> SandboxAddress:
        """Start it and wait until it serves. Raises ConfigError with its last words when it does not."""
        command = [sys.executable, "-m", "base.sandbox", "--exit-with-stdin", "--key-dir", str(self._key_dir)]
        self._process = subprocess.Popen(
            [*command, *self._extra],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=PROJECT_DIR,
            start_new_session=True,  # Ctrl-C is for the daemon, which still has exits to finish on it
        )
        readers = [
            threading.Thread(target=self._read, args=(stream,), name=f"sandbox-{stream}", daemon=True)
            for stream in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        self._clock.wait(self._ready, START_TIMEOUT_S)
        found = dict(line.split(" ", 1) for line in self._lines if " " in line)
        if not self._is_serving or not {"REST", "WS", "KEY_ID", "KEY_FILE"} <= found.keys():
            self.stop()
            for reader in readers:
                reader.join(1.0)  # its last words may still be in the pipe
            words = " | ".join(self._lines[-5:]) or "it said nothing"
            raise ConfigError(
                [
                    f"the embedded sandbox did not start: {words}; install its extra with "
                    "`pip install -e '.[sandbox]'`, or set KALSHI_ENV to demo or prod"
                ]
            )
        address = SandboxAddress(found["REST"], found["WS"], found["KEY_ID"], Path(found["KEY_FILE"]))
        _address_file(self._state_dir).write_text(
            "\n".join([address.rest_url, address.ws_url, address.key_id, str(address.key_file)]) + "\n"
        )
        return address

    def _read(self, stream: str) -> None:
        process = self._process
        pipe = getattr(process, stream) if process is not None else None
        if pipe is None:
            return
        with pipe:
            for raw in pipe:
                line = raw.rstrip()
                if stream == "stderr":
                    log_event(logger, logging.DEBUG, "sandbox_said", text=line)
                if not self._is_serving:
                    self._lines.append(line)
                if stream == "stdout" and line == "ready":
                    self._is_serving = True
                    self._ready.set()
        if stream == "stdout":
            self._ready.set()  # it ended: whoever waits for it must not wait for the time-out

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the process: politely, then for certain."""
        process = self._process
        if process is None:
            return
        _address_file(self._state_dir).unlink(missing_ok=True)
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log_event(logger, logging.WARNING, "sandbox_killed", pid=process.pid)
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def running_sandbox(state_dir: Path) -> SandboxAddress | None:
    """Where the sandbox that a daemon with this STATE_DIR has started can be reached, None without one."""
    try:
        lines = _address_file(state_dir).read_text().splitlines()
    except OSError:
        return None
    return SandboxAddress(lines[0], lines[1], lines[2], Path(lines[3])) if len(lines) == 4 else None


def _address_file(state_dir: Path) -> Path:
    return state_dir / "sandbox" / "address"
