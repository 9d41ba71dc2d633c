"""Disks of our own to be spoiled, in a mount namespace that nobody else sees and that leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep  # noqa: TID251  # waits for other processes, on no loop

import pytest

from tests.conftest import tool

EXT4_IOC_SHUTDOWN = 0x8004587D
"""linux/fs/ext4/ext4.h: _IOR('X', 125, __u32)."""
NO_LOG_FLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: as the power does, without writing out what the journal has in memory."""
PATIENCE_S = 20.0
LOOK_S = 0.05


def need_root() -> None:
    """Mounting takes root. Missing: skip on a desk, fail in CI, where a skip would hide a hole."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail("not root; .ci/run must run as root")
    pytest.skip("mounting disks takes root")


class Ground:
    """A mount namespace. `var` is where the disk under test is mounted in it."""

    def __init__(self, holder: int, var: Path) -> None:
        self._holder = holder
        self._var = var
        self.inside = [tool("nsenter"), "-t", str(holder), "-m", "--"]
        """Before a command that shall see the disk."""
        self.var = Path(f"/proc/{holder}/root{var}")
        """The disk as it is reached from outside."""

    def run(self, *command: str) -> None:
        """A command in the namespace."""
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def mount(self, *arguments: str) -> None:
        self.run("mount", *arguments, str(self._var))

    def unmount(self) -> None:
        """As soon as those who used the disk have died."""
        give_up = monotonic() + PATIENCE_S
        while monotonic() < give_up:
            done = subprocess.run([*self.inside, "umount", str(self._var)], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            sleep(LOOK_S)
        raise AssertionError(done.stderr)

    def fill(self) -> Path:
        """Take every byte that is left. Returns the file that holds them."""
        filler = self.var / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                while _grows(file.fileno(), size):
                    pass
        return filler

    def fill_inodes(self) -> Path:
        """Take every inode that is left. Returns the folder that holds them."""
        folder = self.var / "many"
        folder.mkdir()
        number = 0
        while True:
            try:
                (folder / str(number)).touch()
            except OSError:
                return folder
            number += 1


def _grows(file: int, size: int) -> bool:
    try:
        return os.write(file, bytes(size)) == size
    except OSError:
        return False


class Image(Ground):
    """An ext4 file system in a file, whose power can be cut."""

    def format(self, image: Path, size_mb: int) -> None:
        self._image = str(image)
        with image.open("wb") as file:
            file.truncate(size_mb << 20)
        self.run(tool("mkfs.ext4"), "-q", self._image)
        self.plug_in()

    def plug_in(self) -> None:
        # commit=600: what nobody synced stays in memory until the cut, instead of reaching the disk by luck every 5 s.
        self.mount("-o", "loop,commit=600,errors=remount-ro", self._image)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk: what was not synced is gone."""
        disk = os.open(self.var, os.O_RDONLY)
        try:
            fcntl.ioctl(disk, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(disk)

    def abort(self) -> None:
        """What the kernel does after an error it cannot bear: the file system is read-only from now on."""
        self.mount("-o", "remount,abort")

    def repair(self) -> None:
        """What a person does then."""
        done = subprocess.run([tool("e2fsck"), "-fy", self._image], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: errors were corrected


@contextmanager
def _namespace() -> Iterator[int]:
    need_root()
    command = [tool("unshare"), "-m", "--propagation", "private", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as holder:
        assert holder.stdin is not None
        while Path(f"/proc/{holder.pid}/comm").read_text() != "cat\n":
            sleep(LOOK_S)  # until it has left our namespace and become what holds its own
        try:
            yield holder.pid
        finally:
            holder.stdin.close()  # the namespace goes with its last process, and the mounts and loop devices with it


@contextmanager
def memory_disk(var: Path, *, options: Sequence[str]) -> Iterator[Ground]:
    """A tmpfs of bounded size or number of inodes."""
    var.mkdir()
    with _namespace() as holder:
        ground = Ground(holder, var)
        ground.mount("-t", "tmpfs", "-o", ",".join(options), "none")
        yield ground


@contextmanager
def image_disk(var: Path, *, size_mb: int = 64) -> Iterator[Image]:
    """An ext4 file system in a file beside `var`."""
    var.mkdir()
    with _namespace() as holder:
        ground = Image(holder, var)
        ground.format(var.with_name("disk.img"), size_mb)
        yield ground
