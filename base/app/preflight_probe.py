"""Write to a directory, in a process of its own: a disk that hangs cannot be left by the thread that writes.

Run as a file, without this program's packages: `python -I -S preflight_probe.py DIRECTORY BYTES`. Prints one
line of JSON: what is free for an ordinary user, or the error's number and text.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile


def probe(directory: str, count: int) -> dict[str, object]:
    """Write and sync so many bytes, and leave nothing behind."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".backstop-check-") as file:
            file.write(b"\0" * count)
            file.flush()
            os.fsync(file.fileno())
        found = os.statvfs(directory)
    except OSError as exc:
        return {"errno": exc.errno or 0, "why": exc.strerror or str(exc)}
    return {"free_bytes": found.f_bavail * found.f_frsize}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], int(sys.argv[2]))))
