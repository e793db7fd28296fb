"""The embedded sandbox comes up as a process of its own, goes down, and says why when it cannot."""

from __future__ import annotations

import socket
import urllib.parse
from pathlib import Path

import pytest

from base.app.sandbox_process import EmbeddedSandbox, running_sandbox
from base.clock import SystemClock
from base.errors import ConfigError


def test_it_serves_until_it_is_stopped(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    sandbox = EmbeddedSandbox(tmp_path, SystemClock())
    assert not sandbox.is_alive
    try:
        address = sandbox.start()
        assert sandbox.is_alive
        assert address.key_id
        assert address.key_file.is_file()
        assert running_sandbox(tmp_path) == address
        url = urllib.parse.urlsplit(address.rest_url)
        assert url.hostname == "127.0.0.1"
        socket.create_connection((url.hostname, url.port or 0), 5).close()
    finally:
        sandbox.stop()
    assert not sandbox.is_alive
    assert running_sandbox(tmp_path) is None
    sandbox.stop()


def test_one_that_cannot_start_says_its_last_words(tmp_path: Path) -> None:
    sandbox = EmbeddedSandbox(tmp_path, SystemClock(), ("--no-such-option",))
    with pytest.raises(ConfigError) as wrong:
        sandbox.start()
    (problem,) = wrong.value.problems
    assert "--no-such-option" in problem
    assert not sandbox.is_alive


def test_one_that_never_started_is_stopped_without_fuss(tmp_path: Path) -> None:
    sandbox = EmbeddedSandbox(tmp_path, SystemClock())
    sandbox.stop()
    assert not sandbox.is_alive
