"""Implementations by other hands that judge ours. A test names its judges: `@pytest.mark.peer("siadc09")`.

A peer that is not there fails the test in CI (on a desk, a program may be missing: skipped). Every run ends with the
peers it was judged by; with `--all-peers` (make test-full) it fails when one of them has judged nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

Look = Callable[[], str | None]
"""Gives the version of a peer, or its path; None where it is not there."""


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def libosdp_python() -> Path | None:
    """The interpreter of the environment with libosdp (make .venv/peers/libosdp): libosdp and osdp share one import name."""
    found = Path(sys.prefix) / "peers/libosdp/bin/python"
    return found if found.exists() else None


def _libosdp() -> str | None:
    python = libosdp_python()
    installed = python.parent.parent.glob("lib/python3.*/site-packages/libosdp-*.dist-info") if python else ()
    return next((path.name.removeprefix("libosdp-").removesuffix(".dist-info") for path in installed), None)


PEERS: Mapping[str, Look] = {
    "siadc09": partial(_package, "siadc09"),
    "pysiaalarm": partial(_package, "pysiaalarm"),
    "my-dc09-spt": partial(_package, "my-dc09-spt"),
    "pynmeagps": partial(_package, "pynmeagps"),
    "libosdp": _libosdp,
    "libmodbus": partial(shutil.which, "mbpoll"),
    "mosquitto": partial(shutil.which, "mosquitto"),
}


class Bench:
    """The plugin: looks for the judges before a test, and counts what each has passed."""

    def __init__(self, peers: Mapping[str, Look], *, all_wanted: bool) -> None:
        self._peers = peers
        self._all_wanted = all_wanted
        self._passed: Counter[str] = Counter()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for mark in item.iter_markers("peer"):
            for name in mark.args:
                self._call(name)
                item.user_properties.append(("peer", name))

    def _call(self, name: str) -> None:
        if name not in self._peers:
            pytest.fail(f"peer {name!r} is not known; tests/peers.py has {', '.join(self._peers)}")
        if self._peers[name]() is None:
            if os.environ.get("CI") or self._all_wanted:
                pytest.fail(f"the peer {name} is not installed")
            pytest.skip(f"the peer {name} is not installed")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.update(str(value) for key, value in report.user_properties if key == "peer")

    @property
    def missing(self) -> list[str]:
        """Who should have judged and has not."""
        return [name for name in self._peers if not self._passed[name]] if self._all_wanted else []

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_worker = hasattr(session.config, "workerinput")  # of pytest-xdist: it sees a part only
        if self.missing and not is_worker and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._passed:
            judges = (f"{name} {self._peers[name]()} ({count})" for name, count in sorted(self._passed.items()))
            terminalreporter.write_line(f"peers this run was judged by (tests): {', '.join(judges)}")
        if self.missing:
            terminalreporter.write_line(f"peers that judged nothing: {', '.join(self.missing)}", red=True)
