"""A scenario file: what is wrong with it is named by line, what it says is done the same way every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import simulators
from simulators.scenario import DEVICES_MAX, Scenario, ScenarioError, acts, devices_of, load, missing
from simulators.scenario import simulators as known_simulators

PLACES = ("mqtt", "modbus", "pty", "osdp", "door", "dc09", "jt808", "nmea")
COMMUNITY = Path(simulators.__file__).parent / "community" / "scenario.toml"
ROOT = Path(simulators.__file__).parents[1]
PATIENCE_S = 20
GOOD = """\
seed = 7
[[device]]
simulator = "modbus_points"
id = "fence-{n}"
count = 3
connect = "modbus+tcp://127.0.0.1:{port}"
options = { model = "fence8" }
[[traffic]]
devices = "fence-*"
do = ["burglary"]
zones = [1, 2, 3]
every_s = 1.0
hold_s = [2.0, 3.0]
[[step]]
at_s = 4.0
device = "fence-2"
do = "tamper"
restore_after_s = 1.5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


# -- mistakes ----------------------------------------------------------------------------------------------------------

TABLE = {
    "not TOML": (changed("seed = 7", "seed = "), 1, "Invalid value"),
    "no seed": (changed("seed = 7\n", ""), 1, "seed: Field required"),
    "no device": ("seed = 7\n", 1, "device: "),
    "unknown key": (changed("count = 3", "cuont = 3"), 5, "device.0.cuont: Extra inputs are not permitted"),
    "too many devices": (changed("count = 3", f"count = {DEVICES_MAX + 1}"), 5, "less than or equal to 5000"),
    "unknown simulator": (
        changed('"modbus_points"', '"modbus_point"'),
        3,
        "no simulator 'modbus_point'; expected one of",
    ),
    "a module that is no device": (changed('"modbus_points"', '"faults"'), 3, "no simulator 'faults'"),
    "a name with a hole": (changed("fence-{n}", "fence-{m}"), 4, "device.0.id: 'fence-{m}'"),
    "one name for three": (changed("fence-{n}", "fence-2"), 4, "'fence-2' is there twice"),
    "act of nobody": (changed('device = "fence-2"', 'device = "fence-4"'), 16, "step.0.device: no device 'fence-4'"),
    "traffic of nobody": (changed('"fence-*"', '"fense-*"'), 9, "traffic.0.devices: no device is like 'fense-*'"),
    "act before the start": (changed("at_s = 4.0", "at_s = -4.0"), 15, "greater than or equal to 0"),
    "no acts in traffic": (changed('do = ["burglary"]', "do = []"), 10, "traffic.0.do: "),
}


@pytest.mark.parametrize(("text", "line", "words"), TABLE.values(), ids=TABLE)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ScenarioError) as refused:
        load(path)

    (told,) = [told for told in str(refused.value).splitlines() if words in told]
    assert told.startswith(f"{path}:{line}: ")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = changed('"fence-*"', '"x*"').replace('"modbus_points"', '"x"').replace('device = "fence-2"', 'device = "x"')
    with pytest.raises(ScenarioError) as refused:
        load(written(tmp_path, text))

    assert len(str(refused.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.toml: .*No such file"):
        load(tmp_path / "none.toml")


def test_every_simulator_can_be_named() -> None:
    assert {"alarm_json", "modbus_points", "rf_serial"} <= set(known_simulators())
    assert not {"faults", "scenario", "police_centre"} & set(known_simulators())


def test_what_nothing_fills_in_is_named(tmp_path: Path) -> None:
    (table,) = load(written(tmp_path, GOOD)).device
    assert devices_of(table, {"port": "5020"})[0] == ("fence-1", "modbus+tcp://127.0.0.1:5020")
    for settings in ({}, {"prot": "5020"}):
        with pytest.raises(ScenarioError, match="give --set port=VALUE"):
            devices_of(table, settings)


# -- the same every time -----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_acts_and_another_seed_others(tmp_path: Path) -> None:
    first, again = (acts(load(written(tmp_path, GOOD)), until_s=600) for _ in range(2))
    other = acts(load(written(tmp_path, changed("seed = 7", "seed = 8"))), until_s=600)

    assert first == again
    assert len(first) > 100
    assert first != other


def test_one_kind_of_traffic_does_not_move_another(tmp_path: Path) -> None:
    """Adding a table at the end leaves what was drawn for those before it, so that a found fault can be narrowed down."""
    plain = acts(load(written(tmp_path, GOOD)), until_s=100)
    more = GOOD + '[[traffic]]\ndevices = "fence-1"\ndo = ["tamper"]\nevery_s = 5\n'
    drawn = acts(load(written(tmp_path, more)), until_s=100)

    assert [act for act in drawn if act.do == "burglary"] == [act for act in plain if act.do == "burglary"]
    assert len(drawn) > len(plain)


def test_a_longer_run_begins_like_a_shorter_one(tmp_path: Path) -> None:
    scenario = load(written(tmp_path, GOOD))
    long, short = acts(scenario, until_s=100), acts(scenario, until_s=50)

    assert [act for act in long if act.at_s < 50] == list(short)


def test_conditions_alternate_hold_their_time_and_come_in_order(tmp_path: Path) -> None:
    planned = acts(load(written(tmp_path, GOOD)), until_s=600)
    assert [act.at_s for act in planned] == sorted(act.at_s for act in planned)
    steps = [(act.at_s, act.restore) for act in planned if act.do == "tamper"]
    assert steps == [(4.0, False), (5.5, True)]

    since: dict[tuple[str, int | None], tuple[float, bool]] = {}
    for act in planned:
        if act.do != "burglary":
            continue
        at_s, was_restore = since.get((act.device, act.zone), (-9.0, True))
        assert act.restore is not was_restore
        assert act.at_s - at_s >= 2.0
        since[act.device, act.zone] = act.at_s, act.restore


def test_the_community_of_the_demo_can_be_played() -> None:
    scenario = load(COMMUNITY)
    assert len(acts(scenario, until_s=20)) > 10
    for table in scenario.device:
        assert len(devices_of(table, dict.fromkeys(PLACES, "x"))) == table.count


# -- expectations ------------------------------------------------------------------------------------------------------


def row(**changes: Any) -> Mapping[str, Any]:
    """One accepted event in the centre's record."""
    return {"id": "e1", "key": "k1", "account": "A101", "code": "130", "qualifier": "1", "zone": "17", **changes}


@pytest.mark.parametrize(
    ("received", "complaints"),
    [
        ([row(), row(id="e2")], []),
        ([row()], ["account A101 code 1130 zone 17: expected 2, the centre has 1"]),
        ([row(), row()], ["account A101 code 1130 zone 17: expected 2, the centre has 1"]),
        ([row(id=None), row(id=None, key="k2")], []),
        ([row(), row(id="e2", zone="18")], ["account A101 code 1130 zone 17: expected 2, the centre has 1"]),
        ([row(), row(id="e2", qualifier="3")], ["account A101 code 1130 zone 17: expected 2, the centre has 1"]),
        ([row(), row(id="e2", account="A102")], ["account A101 code 1130 zone 17: expected 2, the centre has 1"]),
        ([], ["account A101 code 1130 zone 17: expected 2, the centre has 0"]),
    ],
    ids=["met", "one short", "one twice", "without ids", "other zone", "a restore", "other account", "nothing"],
)
def test_an_expectation_counts_events_and_not_frames(received: list[Mapping[str, Any]], complaints: list[str]) -> None:
    expect = {"account": "A101", "code": "130", "zone": 17, "count": 2}
    device = {"simulator": "alarm_json", "id": "a", "connect": "x"}
    scenario = Scenario.model_validate({"seed": 1, "device": [device], "expect": [expect]})

    assert list(missing(scenario, received)) == complaints


# -- from the command line ---------------------------------------------------------------------------------------------


def play(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulators", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=ROOT,
    )  # fmt: skip


def test_check_lists_the_acts_and_needs_no_settings(tmp_path: Path) -> None:
    ended = play(written(tmp_path, GOOD), "--check", "--seconds", 6)

    assert ended.returncode == 0
    assert "    4.00 s  fence-2      tamper" in ended.stdout
    assert "    5.50 s  fence-2      tamper restore" in ended.stdout


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (changed('"modbus_points"', '"nobody"'), (), "scenario.toml:3: device.0.simulator: no simulator 'nobody'"),
        (GOOD, (), "give --set port=VALUE"),
        (GOOD, ("--set", "port"), "'port': expected NAME=VALUE"),
        (GOOD, ("--set", "port=high"), "the scenario cannot be run: fence-1: "),
        (changed('"fence8"', '"fence9"'), ("--set", "port=0"), 'model "fence9" of fence-1 is not known; one of '),
        (
            changed("at_s = 4.0", "at_s = 0").replace('do = "tamper"', 'do = "temper"'), ("--set", "port=0"),
            'fence-2 at 0 s: fence8 cannot do "temper"; it knows ',
        ),
    ],
    ids=["simulator", "unset", "no value", "bad port", "bad option", "bad act"],
)  # fmt: skip
def test_what_cannot_be_run_is_2_in_words(tmp_path: Path, text: str, words: tuple[str, ...], said: str) -> None:
    ended = play(written(tmp_path, text), "--seconds", 1, *words)

    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("answer", "code"), [("ACK", 0), ("NAK", 1)])
def test_the_exit_code_tells_whether_the_centre_has_what_was_expected(tmp_path: Path, answer: str, code: int) -> None:
    record = tmp_path / "centre.jsonl"
    record.write_text(json.dumps({**row(), "answer": answer}) + "\n")
    expect = '[[expect]]\naccount = "A101"\ncode = "130"\nzone = 17\n'
    ended = play(written(tmp_path, GOOD + expect), "--seconds", 0.1, "--set", "port=0", "--record", record)

    assert ended.returncode == code, ended.stderr
    assert ("the centre has 0" in ended.stderr) is (code == 1)
