"""What a new site file touches, and what it leaves alone: a table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from gateway.config import ApiSection, BrokerSection, GatewaySection, StoreSection, StormsSection
from gateway.difference import LIVE, Change, Difference, difference
from gateway.errors import ConfigError
from gateway.plan import Plan, prepare

HEAD = '[gateway]\nname = "box"\nprofiles_dir = "own"\n[api]\ntoken_file = "token"\n[store]\nretention_days = 30\n'
FENCE = """\
[[connection]]
name = "fence"
driver = "modbus_points"
link = "modbus+tcp://10.0.0.1:502"
[[connection.settings.units]]
unit = 1
device = "fence-1"
profile = "own"
"""
RADIO = """\
[[connection]]
name = "radio"
driver = "rf_serial"
link = "tcp-listen://0.0.0.0:7000"
[connection.settings]
receiver = "rf-1"
profile = "kerui_ev1527"
"""
ALARMS = '[[connection]]\nname = "alarms"\ndriver = "alarm_json"\nlink = "mqtt://broker"\n'
CENTRE = """\
[[destination]]
name = "centre"
forwarder = "dc09"
[destination.settings]
connect = "10.0.0.110:9110"
key_file = "key"
"""
ESTATE = CENTRE.replace("centre", "estate").replace("key_file", "# key_file")
SITE = HEAD + FENCE + RADIO + CENTRE + ESTATE
PROFILE = (Path(__file__).parents[2] / "drivers/profiles/fence8.toml").read_text(encoding="utf-8")
UNIT_2 = '[[connection.settings.units]]\nunit = 2\ndevice = "fence-2"\nprofile = "own"\n'


def plan(folder: Path, text: str, **files: str) -> Plan:
    """The plan of a site file beside these files."""
    (folder / "own").mkdir(exist_ok=True)
    for name, content in {"token": "t1", "key": "hex:" + "00" * 16, **files}.items():
        path = folder / ("own/own.toml" if name == "profile" else name)
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    (folder / "own" / "own.toml").write_text(files.get("profile", PROFILE), encoding="utf-8")
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return prepare(folder / "site.toml")


TABLE: dict[str, tuple[str, dict[str, str], Difference]] = {
    "the same": (SITE, {}, Difference()),
    "another comment": (SITE + "# checked by Li\n", {}, Difference()),
    "another order": (HEAD + RADIO + ESTATE + FENCE + CENTRE, {}, Difference()),
    "a default written out": (SITE.replace("[store]", "[store]\nbudget_mb = 2048"), {}, Difference()),
    "one more line": (SITE + RADIO.replace("radio", "radio-2").replace("7000", "7001"), {}, Difference(Change(("radio-2",)))),
    "a line less": (HEAD + RADIO + CENTRE + ESTATE, {}, Difference(Change(removed=("fence",)))),
    "a line renamed": (
        SITE.replace('"radio"', '"hall"'), {}, Difference(Change(added=("hall",), removed=("radio",))),
    ),
    "one more device on a bus": (HEAD + FENCE + UNIT_2 + RADIO + CENTRE + ESTATE, {}, Difference(Change(replaced=("fence",)))),
    "another address": (SITE.replace("10.0.0.1:502", "10.0.0.2:502"), {}, Difference(Change(replaced=("fence",)))),
    "another profile in the same file": (
        SITE, {"profile": PROFILE.replace("heard_within_s = 10", "heard_within_s = 20")}, Difference(Change(replaced=("fence",))),
    ),
    "one more destination": (
        SITE + ESTATE.replace("estate", "cloud"), {}, Difference(destinations=Change(("cloud",))),
    ),
    "a destination less": (HEAD + FENCE + RADIO + ESTATE, {}, Difference(destinations=Change(removed=("centre",)))),
    "other lanes": (
        SITE.replace('name = "estate"', 'name = "estate"\nlanes = ["life"]'), {},
        Difference(destinations=Change(replaced=("estate",))),
    ),
    "another key in the same file": (
        SITE, {"key": "hex:" + "11" * 16}, Difference(destinations=Change(replaced=("centre",))),
    ),
    "another token in the same file": (SITE, {"token": "t2"}, Difference(settings=("api.token_file",))),
    "another token file": (
        SITE.replace('"token"', '"token2"'), {"token2": "t2"}, Difference(settings=("api.token_file",)),
    ),
    "settings that change without a stop": (
        SITE.replace("retention_days = 30", "retention_days = 31\nbudget_mb = 100").replace(
            "[api]", 'language = "en"\n[api]\nmetrics_without_token = false'
        ),
        {},
        Difference(settings=("gateway.language", "api.metrics_without_token", "store.budget_mb", "store.retention_days")),
    ),
    "other limits for storms": (
        SITE + "[storms]\nburst = 100\nwindow_s = 5\n", {}, Difference(settings=("storms.window_s", "storms.burst")),
    ),
    "a door": (SITE + '[[door]]\nname = "east"\ncontact = { device = "io" }\n', {}, Difference(settings=("door",))),
    "a broker's address when nothing uses it": (SITE + '[broker]\nlisten = "0.0.0.0:1884"\n', {}, Difference()),
    "the first line that needs a broker": (
        SITE + '[broker]\nlisten = "0.0.0.0:1884"\n' + ALARMS, {}, Difference(Change(added=("alarms",))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_only_what_differs_is_touched(tmp_path: Path, case: tuple[str, dict[str, str], Difference]) -> None:
    text, files, expected = case
    old = plan(tmp_path, SITE)

    assert difference(old, plan(tmp_path, text, **files)) == expected


def test_a_broker_that_goes_with_its_last_line_needs_no_restart(tmp_path: Path) -> None:
    old = plan(tmp_path, SITE + ALARMS + '[broker]\nlisten = "0.0.0.0:1884"\n')

    assert difference(old, plan(tmp_path, SITE)) == Difference(Change(removed=("alarms",)))


USERS = '[broker]\npasswords = { d1 = "p1", d2 = "p2" }\n'


@pytest.mark.parametrize(
    ("text", "files", "keys"),
    [
        (USERS, {}, ()),
        (USERS, {"p2": "made when the broker started"}, ()),
        (USERS, {"p1": "another"}, ("broker.passwords",)),
        (USERS.replace(" }", ', d3 = "p3" }'), {}, ("broker.passwords",)),
        (USERS + 'topics = { d1 = ["t/#"] }\n', {}, ("broker.topics",)),
    ],
    ids=["the same", "one was made", "another secret", "one more user", "other topics"],
)
def test_who_may_come_to_our_own_broker_changes_without_a_stop(
    tmp_path: Path, text: str, files: dict[str, str], keys: tuple[str, ...]
) -> None:
    old = plan(tmp_path, SITE + ALARMS + USERS, p1="one")

    assert difference(old, plan(tmp_path, SITE + ALARMS + text, **{"p1": "one", **files})) == Difference(settings=keys)


def test_a_driver_whose_devices_wait_for_no_receipt_of_ours_needs_another_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = plan(tmp_path, SITE + ALARMS)
    plain = ModuleType("testing.plain")
    vars(plain).update(LINK="topics", HEARD_WITHIN_S=None, decode=None, run=None)
    monkeypatch.setitem(sys.modules, plain.__name__, plain)
    added = ALARMS.replace('"alarms"', '"plain"').replace("alarm_json", plain.__name__)

    assert [problem.key for problem in difference(old, plan(tmp_path, SITE + ALARMS + added)).restart] == ["broker"]


def test_another_key_in_a_file_that_a_driver_names_is_another_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = ModuleType("testing.keyed")
    vars(keyed).update(
        LINK="stream", HEARD_WITHIN_S=None, decode=None, run=None, secret_files=lambda _: ["key", "token"]
    )
    monkeypatch.setitem(sys.modules, keyed.__name__, keyed)
    text = HEAD + f'[[connection]]\nname = "keyed"\ndriver = "{keyed.__name__}"\nlink = "tcp://10.0.0.1:1"\n'
    old = plan(tmp_path, text)

    assert old.connections[0].context.secrets["token"].reveal() == "t1"
    assert "t1" not in repr(old.connections[0])
    assert difference(old, plan(tmp_path, text, key="hex:" + "11" * 16)).connections == Change(replaced=("keyed",))
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644; expected mode 0600"):
        prepare(tmp_path / "site.toml")


RESTART = {
    "gateway.name": ('name = "box"', 'name = "box-2"', 2),
    "gateway.data_dir": ('name = "box"', 'name = "box"\ndata_dir = "elsewhere"', 3),
    "gateway.account": ('name = "box"', 'name = "box"\naccount = "00AA"', 3),
    "gateway.log_level": ('name = "box"', 'name = "box"\nlog_level = "debug"', 3),
    "api.listen": ("[api]", '[api]\nlisten = "127.0.0.1:8111"', 5),
    "broker.listen": ("[store]", '[broker]\nlisten = "127.0.0.1:1884"\n[store]', 7),
}


@pytest.mark.parametrize("key", RESTART)
def test_what_only_a_restart_can_change_is_named_with_its_line(tmp_path: Path, key: str) -> None:
    before, after, line = RESTART[key]
    old = plan(tmp_path, SITE + ALARMS)

    change = difference(old, plan(tmp_path, (SITE + ALARMS).replace(before, after, 1)))

    assert [(problem.key, problem.line) for problem in change.restart] == [(key, line)]
    assert change.settings == ()


def test_every_live_key_is_a_key() -> None:
    tables = {"gateway": GatewaySection, "api": ApiSection, "broker": BrokerSection, "store": StoreSection}
    tables["storms"] = StormsSection
    keys = {f"{table}.{key}" for table, section in tables.items() for key in section.model_fields}

    assert keys | {"door", "self_test"} >= LIVE
