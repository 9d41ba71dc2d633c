"""`fangkong explain` as a user runs it: every vector of every driver, and every way of asking wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.driver_cases import Driver, Vector, drivers, expected_observations, same_answer

ROOT = Path(__file__).parent.parent
PROFILES = str(ROOT / "tests" / "vectors" / "profiles")
COMMAND = """
import argparse, sys
from gateway.cli import explain
parser = argparse.ArgumentParser(prog="fangkong")
explain.add_parser(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""
MOTION = (
    "2450464B52462C52582C30413142324333442C30303030303030312C4556313532372C3830363530412C2D36312C302C323334352A33340D0A"
)
OBSERVATION = {
    "kind": "burglary", "qualifier": "new", "device": "ev1527-80650", "zone": None, "at": None,
    "latitude": None, "longitude": None, "speed_kmh": None,
    "values": {"assurance": "low", "coding": "EV1527", "key": "A", "rssi_dbm": -61, "age_s": 0},
    "code": "80650A", "text": None, "repeat_key": "0A1B2C3D/00000001", "test": False,
}  # fmt: skip
EXPLAINED = {
    "ok": True,
    "observations": [OBSERVATION],
    "answer": b"$PFKRF,AK,0A1B2C3D,00000001,C350*33\r\n".hex(),
    "deviations": [],
}


def fangkong(*arguments: str, standard_input: str = "", folder: Path = ROOT) -> tuple[int, list[Any], str]:
    """Exit code, objects printed, standard error."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "explain", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, input=standard_input, capture_output=True, encoding="utf-8",
        timeout=20, check=False,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def toml_options(vector: Vector) -> list[str]:
    """The options that say what the vector's profile and settings say."""
    options = ["--profiles-dir", PROFILES]
    for name, value in vector.row.get("settings", {}).items():
        options += ["--set", f"{name}={_toml(value)}"]
    if "profile" in vector.row and "profile" in type(vector.context.settings).model_fields:
        options += ["--profile", vector.row["profile"]]
    return options


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def input_line(driver: Driver, vector: Vector) -> str:
    if driver.link == "topics":
        return f"{vector.row['topic']}\t{vector.row['payload']}"
    return str(vector.row["bytes"])


def hashless(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Without the hash of a credential: the key it is made with is thrown away with the process."""
    values = {key: value for key, value in seen.get("values", {}).items() if key != "credential"}
    return {**seen, **({"values": values} if "values" in seen else {})}


@pytest.mark.parametrize("driver", drivers([]), ids=lambda driver: driver.name)
def test_every_vector_is_explained_as_it_is_meant(driver: Driver, tmp_path: Path) -> None:
    """One process for each set of options and keys; vectors of one line only, as a payload may hold line ends."""
    groups: dict[tuple[tuple[str, ...], frozenset[tuple[str, str]]], list[Vector]] = {}
    for vector in driver.vectors:
        if "\n" not in input_line(driver, vector) and not vector.is_error:
            keys = frozenset(vector.row.get("secrets", {}).items())
            groups.setdefault((tuple(toml_options(vector)), keys), []).append(vector)
    for (options, keys), vectors in groups.items():
        for name, key in keys:
            (tmp_path / name).write_text(key)
            (tmp_path / name).chmod(0o600)
        lines = "\n".join(input_line(driver, vector) for vector in vectors)
        code, printed, errors = fangkong(driver.name, "-", *options, standard_input=lines, folder=tmp_path)

        assert (code, errors) == (0, "")
        observations = [seen for one in printed for seen in one["observations"]]
        expected = [wanted for vector in vectors for wanted in expected_observations(vector)]
        if len(observations) == len(expected):
            for seen, wanted in zip(observations, expected, strict=True):
                named = {key: value for key, value in wanted.items() if key != "at"}
                assert hashless({key: seen[key] for key in named}) == hashless(named)
        if len(printed) == len(vectors) and hasattr(driver.module, "answer"):
            for one, vector in zip(printed, vectors, strict=True):
                if not vector.row.get("keyed"):
                    assert same_answer(one["answer"], vector.row.get("answer"))


def test_a_frame_as_hex_argument_gives_the_whole_object() -> None:
    assert fangkong("rf_serial", MOTION) == (0, [EXPLAINED], "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("kerui_ev1527", MOTION),
        ("rf_serial", *(MOTION[at : at + 2] for at in range(0, len(MOTION), 2))),
        ("rf_serial", " ".join(MOTION[at : at + 2] for at in range(0, len(MOTION), 2))),
        ("rf_serial", "--profile", "kerui_ev1527", MOTION),
        ("rf_serial", MOTION, "--set", "receiver=rf-2"),
    ],
)
def test_the_other_ways_of_asking_the_same(arguments: tuple[str, ...]) -> None:
    assert fangkong(*arguments) == (0, [EXPLAINED], "")


def test_glued_frames_are_explained_one_by_one_and_a_rest_says_what_is_wrong() -> None:
    code, printed, _ = fangkong("rf_serial", MOTION + MOTION + MOTION[:20])

    assert code == 1
    assert printed[:2] == [EXPLAINED, EXPLAINED]
    assert printed[2:] == [{"ok": False, "error": "not a $PFKRF,...,CRC*HH sentence ended by CR LF"}]


def test_a_bad_line_on_standard_input_does_not_stop_the_next() -> None:
    code, printed, _ = fangkong("rf_serial", "-", standard_input=f"zz\n\n{MOTION}\n\x00\n")

    assert code == 1
    assert [one["ok"] for one in printed] == [False, True, False]
    assert printed[0]["error"] == "found 'zz', expected pairs of hex digits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rf_seriel", MOTION), 'did you mean "rf_serial"?'),
        (("rf_serial", "--profile", "kerui", MOTION), "one of kerui_ev1527, pt2262_tristate"),
        (("rf_serial", "--set", "reciever=x", MOTION), 'did you mean "receiver"?'),
        (("rf_serial", "--set", "receiver", MOTION), "expected NAME=VALUE"),
        (("rf_serial",), "required: HEX"),
    ],
)
def test_a_wrong_question_is_answered_with_what_was_expected(arguments: tuple[str, ...], message: str) -> None:
    code, printed, errors = fangkong(*arguments)

    assert (code, printed) == (2, [])
    assert message in errors
