"""A disk that fails for real: ext4 on a loop device, which answers EIO, or turns read-only as after errors."""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SHUTDOWN = 0x8004587D
"""ext4's and XFS's ioctl: every later read of what is not in memory, and every write, answers EIO."""


class Disk:
    """A disk of 64 MiB, mounted at a folder."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder, self._image = folder, image

    def mount(self) -> None:
        """Mount the disk. Skips the test where the machine lets nobody."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk of its own: {done.stderr.strip()}")

    def fail(self) -> None:
        """Answer EIO from now on."""
        os.sync()
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", 0))
        finally:
            os.close(folder)

    def turn_read_only(self) -> None:
        """Turn read-only under those who write, as the kernel makes a disk after errors."""
        os.sync()
        subprocess.run(["mount", "-o", "remount,abort", str(self.folder)], capture_output=True, check=False)
        with suppress(OSError):  # the abort shows at the next write
            (self.folder / "touched").touch()

    def mend(self) -> None:
        """Mount it again: what still has files of the failed one open goes on to get errors from those."""
        copy = self._image.with_name(f"{self._image.name}-mended")
        shutil.copyfile(self._image, copy)
        self._image = copy
        self.unmount()
        self.mount()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)


@contextmanager
def disk_at(folder: Path, image: Path) -> Iterator[Disk]:
    """A new disk at a folder. Skips the test where there can be none."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a disk of its own needs root and mkfs.ext4")
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    disk = Disk(folder, image)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()
