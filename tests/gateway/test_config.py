"""A wrong site file is refused as a whole: every mistake with its file, line and key, and the spelling that was meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.cli._site_file import data_dir
from gateway.config import read_secret
from gateway.errors import ConfigError, Problem
from gateway.plan import prepare
from gateway.secret import Secret

BUS = """\
[[connection]]
name = "fence"
driver = "modbus_points"
link = "{link}"
"""
CENTRE = """\
[[destination]]
name = "centre"
forwarder = "dc09"
[destination.settings]
connect = "127.0.0.1:9110"
"""


def mistakes(folder: Path, text: str) -> list[Problem]:
    """What is wrong with a site file, which is there under its own name."""
    site = folder / "site.toml"
    site.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        prepare(site)
    return list(refused.value.problems)


def where(folder: Path, problems: list[Problem]) -> list[tuple[str, int | None, str]]:
    return [(os.path.relpath(problem.file, folder), problem.line, problem.key) for problem in problems]


# -- one mistake at a time ---------------------------------------------------------------------------------------------

TABLE = {
    "not TOML": ("[gateway\n", 1, "syntax", "Expected ']'", ""),
    "unknown key": ('[gateway]\nnmae = "box"\n', 2, "gateway.nmae", "unknown key", 'did you mean "name"?'),
    "unknown table": ('[gatway]\nname = "box"\n', 1, "gatway", "unknown key", 'did you mean "gateway"?'),
    "wrong type": ('[store]\n\nbudget_mb = "much"\n', 3, "store.budget_mb", "found 'much'", ""),
    "out of range": ("[store]\nretention_days = 0\n", 2, "store.retention_days", "found 0", ""),
    "bad box name": ('[gateway]\nname = "Box 1"\n', 2, "gateway.name", "found 'Box 1'", ""),
    "bad account": ('[gateway]\naccount = "12"\n', 2, "gateway.account", "found '12'", ""),
    "no port": ('[api]\nlisten = "127.0.0.1"\n', 2, "api.listen", "found '127.0.0.1'", ""),
    "port too high": ('[api]\nlisten = "127.0.0.1:65536"\n', 2, "api.listen", "found '127.0.0.1:65536'", ""),
    "missing key": ('[[connection]]\nname = "a"\ndriver = "modbus_points"\n', 1, "connection.0.link", "missing", ""),
    "unknown scheme": (BUS.format(link="udp://x:1"), 4, "connection.0.link", "found 'udp://x:1'", ""),
    "unknown driver": (
        '[[connection]]\nname = "a"\ndriver = "modbus_point"\nlink = "modbus+tcp://x:502"\n',
        3, "driver", '"modbus_point" is not known', 'did you mean "modbus_points"?',
    ),
    "a driver by a path": (
        '[[connection]]\nname = "a"\ndriver = "../modbus_points"\nlink = "modbus+tcp://x:502"\n',
        3, "driver", '"../modbus_points" is not known', 'did you mean "modbus_points"?',
    ),
    "a driver that is none": (
        '[[connection]]\nname = "a"\ndriver = "json.tool"\nlink = "modbus+tcp://x:502"\n',
        3, "driver", '"json.tool" lacks LINK', "",
    ),
    "a folder that is no driver": (
        '[[connection]]\nname = "a"\ndriver = "profiles"\nlink = "modbus+tcp://x:502"\n',
        3, "driver", '"profiles" is not known', "",
    ),
    "link of another shape": (BUS.format(link="tcp://x:502"), 4, "connection.fence.link", "tcp://", ""),
    "no host": (BUS.format(link="modbus+tcp://"), 4, "connection.fence.link", "found 'modbus+tcp://'", ""),
    "link with a bad port": (BUS.format(link="modbus+tcp://x:99999"), 4, "connection.fence.link", "found", ""),
    "link with a bad option": (BUS.format(link="modbus+rtu:///dev/ttyS0?bps=9600"), 4, "connection.fence.link", "found", ""),
    "stream without a port": (
        '[[connection]]\nname = "a"\ndriver = "rf_serial"\nlink = "tcp://x"\n', 4, "connection.a.link", "found", "",
    ),
    "serial line with a bad baud": (
        '[[connection]]\nname = "a"\ndriver = "rf_serial"\nlink = "serial:///dev/ttyS0?baud=fast"\n',
        4, "connection.a.link", "found", "",
    ),
    "a broker in the link": (
        '[[connection]]\nname = "a"\ndriver = "alarm_json"\nlink = "mqtt://10.0.0.5"\n',
        4, "connection.a.link", "found 'mqtt://10.0.0.5'", "",
    ),
    "a profile that is not there": (
        '[[connection]]\nname = "a"\ndriver = "rf_serial"\nlink = "serial:///dev/ttyS0"\n'
        '[connection.settings]\nprofile = "keroi_ev1527"\n',
        5, "connection.a.settings", 'profile "keroi_ev1527" is not known', "",
    ),
    "a broker's address that is none": ('[broker]\nurl = "http://x"\n', 2, "broker.url", 'found "http://x"', "username"),
    "unknown forwarder": (CENTRE.replace("dc09", "dc9"), 3, "gateway.forwarder", '"dc9" is not known', '"dc09"?'),
    "what forwarders share": (CENTRE.replace("dc09", "_outbox"), 3, "gateway.forwarder", '"_outbox" is not known', ""),
    "unknown setting": (
        CENTRE + "windw = 4\n", 6, "destination.0.settings.windw", "unknown key", 'did you mean "window"?',
    ),
    "a storm without measure": ("[storms]\n\nwindow_s = 3600\n", 3, "storms.window_s", "found 3600", ""),
    "fewer presses than must arrive": ("[storms]\n\nlife_burst = 9\n", 3, "storms.life_burst", "found 9", ""),
    "a contract of no kind": (
        "[coverage.contract.radio_sensr]\nheard_within_s = 60\n", 1, "coverage.contract.radio_sensr", "unknown key",
        'did you mean "radio_sensor"?',
    ),
    "a contract of a code": (
        "[coverage.contract.radio_code]\nheard_within_s = 60\n", 2, "coverage.contract.radio_code.heard_within_s",
        "unknown key", "",
    ),
    "a contract of no time": (
        "[coverage.contract.siren]\nheard_within_s = 0\n", 2, "coverage.contract.siren.heard_within_s", "found 0", "",
    ),
    "unknown lane": (
        CENTRE.replace("[destination.settings]", 'lanes = ["life", "alarms"]\n[destination.settings]'),
        4, "destination.0.lanes.1", "found 'alarms'", "",
    ),
    "same name twice": (CENTRE + CENTRE, 7, "destination.name", '"centre" is there twice', "rename one"),
    "one port for two": (
        '[api]\nlisten = "127.0.0.1:7000"\n[[connection]]\nname = "a"\ndriver = "rf_serial"\n'
        'link = "tcp-listen://0.0.0.0:7000"\n[connection.settings]\nreceiver = "rf-1"\nprofile = "kerui_ev1527"\n',
        6, "connection.a.link", "port 7000 is taken by api.listen", "",
    ),
    "one serial port for two": (
        BUS.format(link="modbus+rtu:///dev/ttyS0")
        + '[[connection]]\nname = "b"\ndriver = "modbus_points"\nlink = "modbus+rtu:///dev/ttyS0?baud=19200"\n',
        8, "connection.b.link", "/dev/ttyS0 is taken by connection.fence.link", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_a_mistake_is_named_by_line_and_key_with_what_was_meant(
    tmp_path: Path, case: tuple[str, int, str, str, str]
) -> None:
    text, line, key, found, hint = case
    problems = [problem for problem in mistakes(tmp_path, text) if problem.key == key]

    assert where(tmp_path, problems) == [("site.toml", line, key)]
    assert found in problems[0].found
    assert hint in problems[0].hint
    assert problems[0].expected


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.toml: file: does not exist; expected a site file \(fangkong init writes one"
    ):
        prepare(tmp_path / "none.toml")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """A mistake in one table must not hide those in another, or mending goes round by round."""
    (tmp_path / "token").touch(mode=0o644)
    text = (
        '[gateway]\nnmae = "x"\n[store]\nbudget_mb = 1\n[api]\ntoken_file = "token"\n'
        '[[connection]]\nname = "a"\ndriver = "rfserial"\nlink = "tcp://x:1"\n'
        '[[connection]]\nname = "b"\ndriver = "modbus_points"\nlink = "modbus+tcp://x:99999"\nextra = 1\n'
        '[[connection]]\nname = "c"\ndriver = "modbus_points"\nlink = "modbus+tcp://x:99999"\n' + CENTRE + "windw = 4\n"
    )  # fmt: skip

    assert where(tmp_path, mistakes(tmp_path, text)) == [
        ("site.toml", 2, "gateway.nmae"),
        ("site.toml", 4, "store.budget_mb"),
        ("site.toml", 9, "driver"),
        ("site.toml", 15, "connection.1.extra"),
        ("site.toml", 19, "connection.c.link"),
        ("site.toml", 25, "destination.0.settings.windw"),
        ("token", None, "secret"),
    ]


def test_a_driver_whose_package_is_not_installed_is_a_mistake_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "panel.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = '[[connection]]\nname = "a"\ndriver = "vendor.panel"\nlink = "tcp://x:1"\n'

    (problem,) = mistakes(tmp_path, text)

    assert (problem.line, problem.found) == (3, '"vendor.panel" needs a_package_nobody_has, which is not installed')


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_a_mistake_in_an_own_profile_names_the_profile_file(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "fence9.toml").write_text('driver = "modbus_points"\n\nevry_s = 2\n')
    problems = mistakes(tmp_path, '[gateway]\nprofiles_dir = "own"\n' + BUS.format(link="modbus+tcp://x:502"))

    (unknown,) = [problem for problem in problems if problem.found == "unknown key"]
    assert where(tmp_path, [unknown]) == [("own/fence9.toml", 3, "evry_s")]
    assert 'did you mean "every_s"?' in unknown.hint


def test_an_unknown_profile_is_named_with_those_there_are(tmp_path: Path) -> None:
    text = BUS.format(link="modbus+tcp://x:502") + (
        '[[connection.settings.units]]\nunit = 1\ndevice = "fence-1"\nprofile = "fence88"\n'
    )
    (problem,) = mistakes(tmp_path, text)

    assert "fence88" in problem.found
    assert "fence8" in f"{problem.expected} {problem.hint}"


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666])
def test_a_secret_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("a secret\n")
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        read_secret(path)

    (problem,) = refused.value.problems
    assert (problem.file, problem.key, problem.found) == (str(path), "secret", f"mode {mode:04o}")
    assert f"chmod 600 {path}" in problem.hint
    assert "a secret" not in str(problem)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[api]\ntoken_file = "secret"\n', "secret"),
        (CENTRE + 'key_file = "secret"\n', "secret"),
        ('[broker]\nurl = "mqtt://x"\nusername = "u"\npassword_file = "secret"\n', "secret"),
        ('[broker]\npasswords = { door = "secret" }\n', "secret"),
    ],
    ids=["api", "dc09", "broker", "device"],
)
def test_every_secret_is_checked_before_anything_starts(tmp_path: Path, text: str, key: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hex:" + "00" * 16 + "\n")
    secret.chmod(0o644)

    assert where(tmp_path, mistakes(tmp_path, text)) == [("secret", None, key)]


def test_an_empty_secret_is_refused_and_a_good_one_never_shows_itself(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    with pytest.raises(ConfigError, match=r"token:1: secret: empty"):
        read_secret(path)

    path.write_text("canary\nsecond line\n")
    secret = read_secret(path)
    assert secret.reveal() == "canary"
    assert "canary" not in f"{secret} {secret!r} {[secret]}"
    assert isinstance(secret, Secret)


# -- where the data lies -----------------------------------------------------------------------------------------------


def test_daemon_and_commands_find_the_same_data_through_a_link_to_the_site_file(tmp_path: Path) -> None:
    import argparse

    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "site.toml").write_text("")
    (tmp_path / "site.toml").symlink_to(tmp_path / "real" / "site.toml")

    found = data_dir(argparse.Namespace(config=tmp_path / "site.toml"))[1]

    assert found == prepare(tmp_path / "site.toml").data_dir == tmp_path / "real" / "var"
