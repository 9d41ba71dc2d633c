"""Accounts, tokens and the audit record from the command line."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.access import Role
from gateway.audit import rows
from gateway.cli.account import ROLES

Fangkong = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")
    return tmp_path / "site.toml"


@pytest.fixture
def fangkong(
    site_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fangkong]:
    """Runs a command on a box of its own with one site, as the person zhao behind sudo."""
    monkeypatch.setenv("SUDO_USER", "zhao")

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([*map(str, words), "--config", str(site_file)])
        except SystemExit as ended:  # argparse's own
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("site", "add", "s1", "--name", "玉山三期", "--account", "1a2b")[0] == 0
    return run


def table(fangkong: Fangkong, *words: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(fangkong(*words, "--json")[1])
    return found


def test_an_account_begins_with_a_one_time_secret_and_can_be_disabled(fangkong: Fangkong) -> None:
    code, said, _ = fangkong("account", "add", "li", "--role", "duty_officer", "--site", "s1")
    assert code == 0
    assert re.fullmatch(r"([2-9A-Z]{4}-){4}[2-9A-Z]{4}", said.splitlines()[0])

    assert table(fangkong, "account", "list") == [
        {"name": "li", "role": "duty_officer", "sites": "s1", "state": "waits for its owner"}
    ]
    assert fangkong("account", "disable", "li")[:2] == (0, "li: disabled 已停用\n")
    assert [row["state"] for row in table(fangkong, "account", "list")] == ["disabled"]
    again = json.loads(fangkong("account", "passwd", "li", "--json")[1])
    assert again["one_time_secret"] not in said
    assert [row["state"] for row in table(fangkong, "account", "list")] == ["waits for its owner"]


def test_a_token_is_shown_once_and_can_be_revoked(fangkong: Fangkong) -> None:
    token = json.loads(fangkong("token", "add", "grafana", "--role", "auditor", "--days", "7", "--json")[1])["token"]
    listed = fangkong("token", "list")[1]

    assert ("grafana" in listed, "all" in listed, token in listed) == (True, True, False)
    assert fangkong("token", "revoke", "grafana")[:2] == (0, "grafana: revoked 已吊销\n")
    assert table(fangkong, "token", "list") == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("account", "add", "Li Ming", "--role", "auditor"), "account: found 'Li Ming'; expected 1 to 32 of a-z"),
        (("account", "add", "li", "--role", "auditor", "--site", "s9"), "site: 's9' is not in the ledger"),
        (("account", "add", "li", "--role", "test_engineer"), "a test engineer has no others"),
        (("account", "add", "li", "--role", "king"), "invalid choice: 'king'"),
        (("account", "passwd", "li"), "account: 'li' is not there; expected one of none"),
        (("token", "add", "t", "--role", "auditor", "--days", "400"), "days: found 400; expected 1 to 366"),
        (("token", "revoke", "t"), "token: 't' is not there"),
        (("audit", "verify", "--noted", "seven"), "two numbers are expected"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_expected(
    fangkong: Fangkong, words: tuple[str, ...], complaint: str
) -> None:
    code, _, said = fangkong(*words)

    assert code == 2
    assert complaint in said


def test_the_command_line_knows_every_role() -> None:
    assert tuple(role.value for role in Role) == ROLES


def test_what_is_done_at_the_command_line_is_recorded_with_the_person(
    fangkong: Fangkong, site_file: Path, tmp_path: Path
) -> None:
    fangkong("account", "add", "li", "--role", "auditor")
    fangkong("device", "add", "d1", "--site", "s1")
    (tmp_path / "devices.csv").write_text(
        "site,device,device_name,heard_within_s,point,number,point_name,zone\ns1,d2,,,,,,\n"
    )
    assert fangkong("device", "import", tmp_path / "devices.csv", "--dry-run")[0] == 0
    assert fangkong("device", "import", tmp_path / "devices.csv")[0] == 0
    assert fangkong("device", "import", tmp_path / "devices.csv")[0] == 0  # changes nothing
    assert fangkong("device", "add", "d1", "--site", "s1")[0] == 2  # is there already
    assert fangkong("config", "apply")[0] == 0

    seen = [(row["actor"], row["deed"], row["subject"][:9]) for row in table(fangkong, "audit", "list")]
    assert seen == [
        ("os:zhao", "registry", "site s1"),
        ("os:zhao", "account", "li"),
        ("os:zhao", "registry", "device d1"),
        ("os:zhao", "registry", "device d2"),
        ("os:zhao", "configuration", "sha256:" + seen[-1][2][7:]),
    ]
    assert table(fangkong, "audit", "list", "--limit", "2")[0]["subject"] == "device d2"


def test_verify_names_the_first_row_that_is_not_as_it_was(fangkong: Fangkong, tmp_path: Path) -> None:
    path = tmp_path / "var" / "audit.db"
    for name in ("li", "wang", "zhou"):
        fangkong("account", "add", name, "--role", "auditor")
    code, said, _ = fangkong("audit", "verify")
    [noted] = re.findall(r"--noted (\d+:\d+)", said)
    assert (code, "4 rows, none changed" in said) == (0, True)
    assert fangkong("audit", "verify", "--noted", noted)[0] == 0

    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM audit WHERE seq = 4")
    assert fangkong("audit", "verify")[0] == 0
    assert fangkong("audit", "verify", "--noted", noted)[:2] == (
        1, f"{path}: row 4 was removed, and all behind it: row 4 was there 审计记录被改动\n",
    )  # fmt: skip
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE audit SET subject = 'someone' WHERE seq = 2")
    assert fangkong("audit", "verify")[:2] == (1, f"{path}: row 2 was changed 审计记录被改动\n")
    assert json.loads(fangkong("audit", "verify", "--json")[1])["fault"] == "row 2 was changed"


def test_a_record_that_cannot_be_written_stops_the_act(fangkong: Fangkong, tmp_path: Path) -> None:
    path = tmp_path / "var" / "audit.db"
    path.unlink()
    path.mkdir()

    assert fangkong("account", "add", "li", "--role", "auditor")[0] == 1
    code, _, said = fangkong("device", "add", "d1", "--site", "s1")
    assert (code, "an audit record that can be written was expected" in said) == (1, True)
    assert table(fangkong, "account", "list") == []
    assert table(fangkong, "device", "list") == []


def test_a_box_where_nothing_was_done_has_nothing_to_show(site_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("audit", "list"), ("account", "list"), ("token", "list")):
        assert main([*words, "--config", str(site_file)]) == 0
    assert list(rows(site_file.parent / "var" / "audit.db")) == []
    assert main(["audit", "verify", "--config", str(site_file)]) == 1  # or it was removed: who looks, knows
    assert "there is no row" in capsys.readouterr().out


def test_what_the_box_keeps_is_for_its_own_user(fangkong: Fangkong, tmp_path: Path) -> None:
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
