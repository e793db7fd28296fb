"""What SQLite's write-ahead log holds, read without SQLite, which stops silently at a broken frame.

The format is documented at https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC = 0x377F0682  # its lowest bit says that checksums are of big-endian words


def is_header_damaged(file: BinaryIO) -> bool:
    """Whether a log has a header that SQLite would throw away, and the whole log with it."""
    file.seek(0)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return False
    magic, *_, found_1, found_2 = struct.unpack(">8I", header)
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", header[:24])
    sum_1 = sum_2 = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + even + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + odd + sum_1) & 0xFFFFFFFF
    return magic & ~1 != _MAGIC or (sum_1, sum_2) != (found_1, found_2)


def commit_frames(file: BinaryIO) -> list[int]:
    """Numbers, from 1, of the frames of this generation of the log that end a transaction."""
    file.seek(0)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return []
    page_bytes = struct.unpack_from(">I", header, 8)[0]
    salts = header[16:24]
    found: list[int] = []
    number = 0
    while True:
        frame = file.read(FRAME_HEADER_BYTES)
        if len(frame) < FRAME_HEADER_BYTES:
            return found
        number += 1
        if frame[8:16] == salts and frame[4:8] != b"\0\0\0\0":
            found.append(number)
        file.seek(page_bytes, 1)
