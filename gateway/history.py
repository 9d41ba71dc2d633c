"""Configurations as they came into force, newest last: each a verbatim copy, so that a person can put one back by hand."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import ConfigError, Problem

KEPT_MAX = 50
"""Changes are made by people, a few a week: about a year. At 64 KB each 3 MB."""

WHO = re.compile(r"[A-Za-z0-9.-]{1,32}")
"""Who may stand in a file's name."""

_NAME = re.compile(rf"(\d{{6}})_(\d{{8}}T\d{{6}}Z)_({WHO.pattern})_([0-9a-f]{{64}})\.toml")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Kept:
    """One configuration that was in force."""

    number: int
    at: datetime
    who: str
    """An OS user, `api`, `SIGHUP`, or `start` for what was in force when the daemon started."""
    sha256: str
    path: Path

    def text(self) -> str:
        """Raises ConfigError when the copy is not what was kept."""
        try:
            text = self.path.read_bytes()
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        if hashlib.sha256(text).hexdigest() != self.sha256:
            raise self._unusable("its content is not the one of its name")
        return text.decode()

    def _unusable(self, found: str) -> ConfigError:
        return ConfigError(
            [Problem(str(self.path), None, "file", found, "the configuration as it was kept", "历史配置已损坏")]
        )


class History:
    """The folder `config` of a data directory. The daemon alone writes it."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir / "config"

    def kept(self) -> Sequence[Kept]:
        """All that are there, newest last. Raises ConfigError when the folder may not be read."""
        try:
            names = sorted(path.name for path in self._dir.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            problem = Problem(
                str(self._dir), None, "history", error.strerror or str(error), "a readable folder", "无法读取"
            )
            raise ConfigError([problem]) from error
        return [self._kept(found) for name in names if (found := _NAME.fullmatch(name))]

    def _kept(self, name: re.Match[str]) -> Kept:
        number, at, who, digest = name.groups()
        moment = datetime.strptime(at, _TIME).replace(tzinfo=UTC)
        return Kept(int(number), moment, who, digest, self._dir / name.string)

    def keep(self, text: str, *, at: datetime, who: str) -> None:
        """Keep a configuration that has come into force, unless it is the newest already. Raises OSError."""
        kept = self.kept()
        digest = hashlib.sha256(text.encode()).hexdigest()
        if kept and kept[-1].sha256 == digest:
            return
        self._dir.mkdir(mode=0o700, exist_ok=True)
        number = kept[-1].number + 1 if kept else 1
        write_whole(self._dir / f"{number:06d}_{at.astimezone(UTC).strftime(_TIME)}_{who}_{digest}.toml", text.encode())
        for old in kept[: max(0, len(kept) + 1 - KEPT_MAX)]:
            with suppress(OSError):  # one too many is no harm; the next time
                old.path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it, also after a power cut, finds either the old content or the new. Mode and
    owner stay what they were (new: 0600 and us). Raises OSError."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if path.exists():
                as_it_was = path.stat()
                os.fchmod(file.fileno(), as_it_was.st_mode & 0o7777)
                if (as_it_was.st_uid, as_it_was.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), as_it_was.st_uid, as_it_was.st_gid)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
