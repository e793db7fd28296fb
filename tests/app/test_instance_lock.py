"""One daemon per key, wherever the second one is started from; the kernel cleans up after a death."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from base.app.instance_lock import InstanceLock, default_directory
from base.errors import AlreadyRunningError, ConfigError

PROJECT = Path(__file__).parents[2]
KEY_ID = "11111111-2222-3333-4444-555555556789"

HOLDER = """
import sys
from pathlib import Path
from base.app.instance_lock import InstanceLock
with InstanceLock(sys.argv[1], Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


HOLDER_WITH_CHILD = """
import subprocess, sys
from pathlib import Path
from base.app.instance_lock import InstanceLock
with InstanceLock(sys.argv[1], Path(sys.argv[2])):
    child = "import sys; print('held', flush=True); sys.stdin.read()"
    subprocess.run([sys.executable, "-c", child], close_fds=False)
"""  # the child ends when the test closes the standard input that both share


@contextmanager
def other_process(key_id: str, directory: Path, script: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, key_id, str(directory)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_second_process_is_refused_and_told_who_holds_it(directory: Path) -> None:
    with (
        other_process(KEY_ID, directory) as other,
        pytest.raises(AlreadyRunningError, match=rf"\b{other.pid}\b"),
    ):
        InstanceLock(KEY_ID, directory).acquire()


def test_second_lock_in_the_same_process_is_refused(directory: Path) -> None:
    with InstanceLock(KEY_ID, directory), pytest.raises(AlreadyRunningError):
        InstanceLock(KEY_ID, directory).acquire()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
class TestAcrossUsers:
    """Another user has another directory of locks: only the name is shared."""

    def test_a_second_process_is_refused_though_the_files_are_gone(self, directory: Path) -> None:
        with other_process(KEY_ID, directory) as other:
            for path in directory.iterdir():  # as a cleaner of temporary files would
                path.unlink()
            with pytest.raises(AlreadyRunningError, match=rf"process {other.pid} of user {os.geteuid()}\b"):
                InstanceLock(KEY_ID, directory).acquire()

    def test_who_was_refused_has_taken_nothing(self, directory: Path) -> None:
        with other_process(KEY_ID, directory):
            for path in directory.iterdir():
                path.unlink()
            refused = InstanceLock(KEY_ID, directory)
            for _ in range(40):  # more than wait in the holder's queue
                with pytest.raises(AlreadyRunningError):
                    refused.acquire()
        with refused:
            assert refused.path.read_text() == f"{os.getpid()}\n"

    def test_a_user_of_its_own_is_refused(self, directory: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        script = (
            "import os, sys\n"
            "from base.app.instance_lock import InstanceLock\n"
            "from base.errors import AlreadyRunningError\n"
            "os.setuid(12_345)\n"
            "try:\n    InstanceLock(sys.argv[1]).acquire()\n"
            "except AlreadyRunningError as exc:\n    print(exc)\n"
        )
        key_id = f"{KEY_ID}-{os.getpid()}"
        with InstanceLock(key_id):
            told = subprocess.run(
                [sys.executable, "-c", script, key_id],
                env={"PYTHONPATH": str(PROJECT), "TMPDIR": "/tmp"},
                capture_output=True,
                text=True,
                timeout=30,
            )
        assert f"process {os.getpid()} of user 0" in told.stdout, told.stderr


def test_another_key_is_free(directory: Path) -> None:
    with InstanceLock(KEY_ID, directory), InstanceLock("another", directory) as other:
        assert other.path.exists()


def test_killed_holder_leaves_no_lock(directory: Path) -> None:
    with other_process(KEY_ID, directory) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(timeout=10)
        with InstanceLock(KEY_ID, directory) as lock:
            assert lock.path.read_text() == f"{os.getpid()}\n"


def test_release_lets_the_next_one_in_and_may_be_repeated(directory: Path) -> None:
    lock = InstanceLock(KEY_ID, directory)
    lock.acquire()
    lock.acquire()
    lock.release()
    lock.release()
    with InstanceLock(KEY_ID, directory):
        assert lock.path.exists(), "a lock on a deleted file would exclude nobody"


def test_child_that_outlives_a_killed_holder_does_not_keep_the_lock(directory: Path) -> None:
    with other_process(KEY_ID, directory, script=HOLDER_WITH_CHILD) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(timeout=10)
        with InstanceLock(KEY_ID, directory) as lock:
            assert lock.path.read_text() == f"{os.getpid()}\n"


def test_files_are_private_and_do_not_tell_the_key(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    with InstanceLock(KEY_ID, directory) as lock:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
        assert KEY_ID not in str(lock.path)


class TestTraps:
    def test_directory_of_another_user(self, directory: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        directory.mkdir()
        os.chown(directory, 12_345, -1)
        with pytest.raises(ConfigError, match="belongs to user 12345"):
            InstanceLock(KEY_ID, directory).acquire()

    def test_link_in_place_of_the_directory(self, directory: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        directory.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match="not a directory"):
            InstanceLock(KEY_ID, directory).acquire()
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_file_in_place_of_the_directory(self, directory: Path) -> None:
        directory.write_text("")
        with pytest.raises(ConfigError):
            InstanceLock(KEY_ID, directory).acquire()

    def test_link_in_place_of_the_file(self, directory: Path, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("precious")
        lock = InstanceLock(KEY_ID, directory)
        directory.mkdir()
        lock.path.symlink_to(victim)
        with pytest.raises(ConfigError):
            lock.acquire()
        assert victim.read_text() == "precious"


class TestDefaultDirectory:
    def test_is_the_runtime_directory(self, tmp_path: Path) -> None:
        assert default_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "backstop"

    def test_is_found_without_the_variable_too(self, tmp_path: Path) -> None:
        runtime = tmp_path / str(os.geteuid())
        runtime.mkdir()
        for environ in ({}, {"XDG_RUNTIME_DIR": "relative"}, {"XDG_RUNTIME_DIR": str(tmp_path / "none")}):
            assert default_directory(environ, runtime_root=tmp_path) == runtime / "backstop"

    def test_is_per_user_without_a_runtime_directory(self, tmp_path: Path) -> None:
        directory = default_directory({}, runtime_root=tmp_path)
        assert directory.name == f"backstop-{os.geteuid()}"

    def test_does_not_depend_on_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = default_directory({}, runtime_root=tmp_path)
        monkeypatch.chdir(tmp_path)
        assert default_directory({}, runtime_root=tmp_path) == before
        assert before.is_absolute()


def test_a_copy_that_sees_another_runtime_directory_meets_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"key-of-{tmp_path.name}-{os.getpid()}"
    for name in ("one", "two"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "one"))
    with InstanceLock(key) as held:
        assert len(held.paths) == 2
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "two"))
        with pytest.raises(AlreadyRunningError):
            InstanceLock(key).acquire()
    other = InstanceLock(key)
    other.acquire()
    other.release()
    for path in {*held.paths, *other.paths}:
        path.unlink()
