"""New files, block by block from several threads; large ones past the page cache.

Through the page cache the system first finds memory for a copy of the file, then copies, then
writes it out: more work than computing the weights. Past it a block goes to the disk from where it
was computed, and what others hold in the cache stays there.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genepool.threads import Crew

Bytes = NDArray[np.uint8]

BLOCK = 2**20
"""Bytes that are computed at once; a multiple of 8."""

WRITE = 16
"""Blocks that are written at once past the page cache: disks are the faster the more they get."""

WAITING = 256
"""Blocks of all threads together, at most (but one for each)."""

DIRECT_BYTES = 2**28
"""Files of this size or more are written past the page cache, where the file system can."""

# Sizes, places and addresses of what is written past the cache are multiples of this.
_PAGE = 4096


def write_file(
    path: Path,
    size: int,
    fill: Callable[[int, int, Bytes], None],
    crew: Crew,
    done: Callable[[int], None],
) -> None:
    """Write a new file of `size` bytes and see it on the disk.

    Args:
        path: where nothing is yet.
        size: its length.
        fill: fill(begin, stop, block) computes bytes begin..stop of the file into block,
            uint8[stop - begin]; called in any order, from several threads.
        crew: the threads. Some more than there are cores keep the disk busy.
        done: told how many bytes have been written, each time.

    Raises:
        OSError: it cannot be written.
    """
    handle, direct = _open(path, size)
    piece = BLOCK * (max(1, min(WRITE, WAITING // crew.threads)) if direct else 1)
    rooms: dict[int, Bytes] = {}

    def work(worker: int, item: int) -> None:
        begin = item * piece
        stop = min(begin + piece, size)
        room = rooms.get(worker)
        if room is None:
            memory = np.zeros(piece + 2 * _PAGE, dtype=np.uint8)
            room = rooms[worker] = memory[-memory.ctypes.data % _PAGE :]
        for start in range(begin, stop, BLOCK):
            end = min(start + BLOCK, stop)
            fill(start, end, room[start - begin : end - begin])
        # The file's last bytes are written in whole pages.
        length = stop - begin if stop < size else -(-(stop - begin) // _PAGE) * _PAGE
        _write_at(handle, room.data[:length], begin)
        done(stop - begin)

    try:
        # What makes a file longer waits for its turn; the rest is written side by side.
        os.ftruncate(handle, -(-size // _PAGE) * _PAGE)
        crew.run(-(-size // piece), work)
        os.ftruncate(handle, size)
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: Path, size: int) -> tuple[int, bool]:
    """A new file, and whether it is written past the page cache."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    if sys.platform == "linux" and size >= DIRECT_BYTES:
        try:
            return os.open(path, flags | os.O_DIRECT, 0o666), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Not on this file system; the file may be there all the same.
            path.unlink(missing_ok=True)
    return os.open(path, flags, 0o666), False


def _write_at(handle: int, view: memoryview, offset: int) -> None:
    again = True
    while view.nbytes:
        try:
            written = os.pwrite(handle, view, offset)
        except OSError as error:
            # Past the cache the file system may ask for other sizes, so that it goes on through it;
            # another thread may have been told so before.
            if error.errno != errno.EINVAL or not again:
                raise
            again = False
            if sys.platform == "linux":
                import fcntl

                flags = fcntl.fcntl(handle, fcntl.F_GETFL)
                fcntl.fcntl(handle, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            continue
        view, offset = view[written:], offset + written
