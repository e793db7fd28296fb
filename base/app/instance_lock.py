"""One daemon per API key on this machine: two of them would both sell what is held."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from base.errors import AlreadyRunningError, ConfigError

PID_BYTES_MAX = 20
CALLERS_MAX = 16
_CREDENTIALS = struct.Struct("iII")  # process, user and group: `struct ucred`


class InstanceLock:
    """An exclusive lock on an API key, held until `release` or the end of the process.

    The kernel drops a flock when its process dies, however it dies, so no stale lock can keep a restart
    from protecting positions. The file lies in a per-user directory, not in STATE_DIR or the working
    directory: a second copy started from somewhere else must find the same lock. It is never deleted,
    because a lock on a deleted file excludes nobody.

    Where the system has them (Linux), an abstract socket's name is taken too: all users of the machine
    share these names, so a daemon started as root meets the service that runs as a user of its own; and no
    cleaner of temporary files can delete one. With a `directory` of its own the lock is among those who
    name the same directory.
    """

    def __init__(self, key_id: str, directory: Path | None = None) -> None:
        directories = [directory] if directory is not None else lock_directories(os.environ)
        digest = hashlib.sha256(key_id.encode()).hexdigest()[:32]  # the name must not tell the key
        self.paths = tuple(d / f"{digest}.lock" for d in directories)
        scope = "" if directory is None else hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
        self._name = f"\0backstop-{digest}{scope}"
        self._descriptors: list[int] = []
        self._socket: socket.socket | None = None

    @property
    def path(self) -> Path:
        """The first of the lock's files."""
        return self.paths[0]

    def acquire(self) -> None:
        """Take the lock. Raises AlreadyRunningError at once when another process holds it."""
        if self._descriptors:
            return
        try:
            for path in self.paths:
                self._descriptors.append(_lock(path))
            self._socket = _take_name(self._name)
        except (AlreadyRunningError, ConfigError):
            self.release()
            raise

    def release(self) -> None:
        """Let go of the lock; does nothing when it is not held."""
        for descriptor in self._descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child just being started still has a copy open
            os.close(descriptor)
        self._descriptors = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> InstanceLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _lock(path: Path) -> int:
    """Lock one file for this process; return its descriptor."""
    _make_private_directory(path.parent)
    descriptor = _open_lock_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, PID_BYTES_MAX, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunningError(
            f"another instance (process {holder or 'unknown'}) runs with this API key; stop it first, "
            f"or use another key (lock file {path})"
        ) from None
    except OSError as exc:
        os.close(descriptor)
        raise _unusable(path, exc.strerror or str(exc)) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _take_name(name: str) -> socket.socket | None:
    """Take an abstract name (unix(7)) for this process; None where there are none."""
    if sys.platform != "linux":
        return None
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        taken.bind(name)
        taken.listen(CALLERS_MAX)  # so that who is refused can ask whom it belongs to
    except OSError as exc:
        taken.close()
        if exc.errno != errno.EADDRINUSE:
            raise ConfigError([f"the instance lock cannot be taken: {exc.strerror or exc}"]) from exc
        raise AlreadyRunningError(
            f"another instance ({_holder_of(name)}) runs with this API key; stop it first, or use another key"
        ) from None
    return taken


def _holder_of(name: str) -> str:
    """Whose process holds an abstract name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(name)
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return "process unknown"
    process_id, user_id, _ = _CREDENTIALS.unpack(credentials)
    return f"process {process_id} of user {user_id}"


def lock_directories(environ: Mapping[str, str]) -> list[Path]:
    """Where the lock is taken: in the default directory, and below the temporary one in any case.

    One alone depends on a variable that a service and a login shell may see differently.
    """
    temporary = Path(tempfile.gettempdir()) / f"backstop-{os.geteuid()}"
    return list(dict.fromkeys((default_directory(environ), temporary)))


def default_directory(environ: Mapping[str, str], runtime_root: Path = Path("/run/user")) -> Path:
    """The user's runtime directory where there is one, else a directory below the temporary one.

    The runtime directory is also looked for where XDG_RUNTIME_DIR is not set: a copy started by cron must
    find the lock of the one started from a login shell.
    """
    user_id = os.geteuid()
    named = environ.get("XDG_RUNTIME_DIR", "")
    for runtime in (Path(named), runtime_root / str(user_id)):
        if runtime.is_absolute() and runtime.is_dir() and os.access(runtime, os.W_OK):
            return runtime / "backstop"
    return Path(tempfile.gettempdir()) / f"backstop-{user_id}"


def _make_private_directory(directory: Path) -> None:
    """Create the directory 0700; refuse one that another user could have prepared as a trap."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as exc:
        raise _unusable(directory, exc.strerror or str(exc)) from exc
    if not stat.S_ISDIR(status.st_mode):  # lstat: a symbolic link is refused too
        raise _unusable(directory, "it is not a directory")
    if status.st_uid != os.geteuid():
        raise _unusable(directory, f"it belongs to user {status.st_uid}")
    if status.st_mode & 0o077:
        directory.chmod(0o700)


def _open_lock_file(path: Path) -> int:
    """Open or create the file without following a symbolic link; children do not inherit the lock."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _unusable(path, exc.strerror or str(exc)) from exc


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        [f"instance lock {path}: {why}; remove it, or set XDG_RUNTIME_DIR to your own directory"]
    )
