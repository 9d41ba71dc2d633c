"""Who judged a run is told at its end, and a judge who did not turn up fails it."""

from __future__ import annotations

import textwrap

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.peers import Bench
PEERS = {"there": lambda: "1.0", "absent": lambda: None, "idle": lambda: "2.0"}
def pytest_addoption(parser):
    parser.addoption("--all-wanted", action="store_true")
def pytest_configure(config):
    config.addinivalue_line("markers", "peer(*names)")
    config.pluginmanager.register(Bench(PEERS, all_wanted=config.getoption("--all-wanted")))
"""


def _run(pytester: pytest.Pytester, body: str, *options: str) -> tuple[int, str]:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("import pytest\n" + textwrap.dedent(body))
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio", *options)
    return int(done.ret), done.stdout.str()


def test_a_run_names_its_judges(pytester: pytest.Pytester) -> None:
    status, shown = _run(pytester, "@pytest.mark.peer('there', 'idle')\ndef test_judged(): pass")

    assert status == pytest.ExitCode.OK
    assert "peers this run was judged by (tests): idle 2.0 (1), there 1.0 (1)" in shown


def test_a_full_run_without_one_of_them_fails(pytester: pytest.Pytester) -> None:
    status, shown = _run(pytester, "@pytest.mark.peer('there')\ndef test_judged(): pass", "--all-wanted")

    assert status == pytest.ExitCode.TESTS_FAILED
    assert "peers that judged nothing: absent, idle" in shown


@pytest.mark.parametrize("is_ci", [False, True])
def test_one_that_is_not_installed_fails_in_ci_alone(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, is_ci: bool
) -> None:
    monkeypatch.setenv("CI", "1" if is_ci else "")
    status, shown = _run(pytester, "@pytest.mark.peer('absent')\ndef test_judged(): pass", "-rs")

    assert status == (pytest.ExitCode.TESTS_FAILED if is_ci else pytest.ExitCode.OK)
    assert "the peer absent is not installed" in shown


def test_a_name_that_is_not_listed_is_refused(pytester: pytest.Pytester) -> None:
    status, shown = _run(pytester, "@pytest.mark.peer('stranger')\ndef test_judged(): pass")

    assert status == pytest.ExitCode.TESTS_FAILED
    assert "peer 'stranger' is not known; tests/peers.py has there, absent, idle" in shown
