"""Vehicles and geofences from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.registry.checks import CORNERS_MAX, FENCES_OF_VEHICLE_MAX

Fangkong = Callable[..., tuple[int, str, str]]
HEADER = "id,number,name,rule,radius_m,corners\n"
FENCES = HEADER + (
    "town,7,城区,stay_in,,37.50 121.35; 37.50 121.45; 37.55 121.45; 37.55 121.35\n"
    "bank,8,金库,keep_out,150,37.52 121.40\n"
)  # fmt: skip
GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"id": "town", "number": 7, "name": "城区", "rule": "stay_in", "stroke": "#ff0000"},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[121.35, 37.5], [121.45, 37.5], [121.45, 37.55], [121.35, 37.55], [121.35, 37.5]]],
            },
        },
        {
            "type": "Feature",
            "properties": {"id": "bank", "number": 8, "name": "金库", "rule": "keep_out", "radius_m": 150},
            "geometry": {"type": "Point", "coordinates": [121.4, 37.52]},
        },
    ],
}


@pytest.fixture
def fangkong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fangkong:
    """Runs a command on a box of its own that has one site, and returns its exit code and what it said."""
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words), "--config", str(tmp_path / "site.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("site", "add", "s1", "--name", "押运公司", "--account", "1a2b")[0] == 0
    return run


def written(folder: Path, text: str) -> Path:
    path = folder / "fences"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_vehicle_is_enrolled_and_put_on_duty(fangkong: Fangkong, tmp_path: Path) -> None:
    assert fangkong("vehicle", "geofence", "import", written(tmp_path, FENCES))[:2] == (
        0,
        "2 added, 0 updated, 0 unchanged\n",
    )
    enrol = ("vehicle", "enrol", "13912345678", "--site", "s1", "--name", "押运 7", "--kind", "cash_transport")
    assert fangkong(*enrol, "--limit-kmh", 70, "--geofence", "town", "--geofence", "bank")[0] == 0
    assert fangkong("vehicle", "duty", "13912345678", "on")[0] == 0

    (row,) = json.loads(fangkong("vehicle", "list", "--json")[1])
    assert row == {
        "id": "13912345678", "site": "s1", "name": "押运 7", "kind": "cash_transport", "duty": "on", "limit_kmh": 70.0,
        "geofences": "town bank",
    }  # fmt: skip
    assert fangkong(*enrol)[0] == 0, "asking twice"
    (row,) = json.loads(fangkong("vehicle", "list", "--json")[1])
    assert (row["duty"], row["limit_kmh"], row["geofences"]) == ("on", None, "")
    assert fangkong("vehicle", "duty", "13912345678", "off")[0] == 0
    assert "off" in fangkong("vehicle", "list")[1]


@pytest.mark.parametrize("text", [FENCES, "\ufeff" + FENCES, json.dumps(GEOJSON)], ids=["CSV", "marked CSV", "GeoJSON"])
def test_both_forms_of_a_file_give_the_same_fences(fangkong: Fangkong, tmp_path: Path, text: str) -> None:
    load = ("vehicle", "geofence", "import", written(tmp_path, text))
    assert fangkong(*load, "--dry-run")[1] == "2 would be added, 0 would be updated, 0 unchanged\n"
    assert json.loads(fangkong(*load, "--json")[1])["added"] == 2

    assert fangkong("vehicle", "geofence", "import", written(tmp_path, FENCES))[1].endswith("2 unchanged\n")
    assert fangkong("vehicle", "geofence", "list")[1].splitlines() == [
        "number  id    name  rule      shape",
        "7       town  城区  stay_in   4 corners",
        "8       bank  金库  keep_out  150 m around",
    ]


MISTAKES = {
    "header": ("id,number\n", "row.1: found id,number"),
    "cells": (HEADER + "town,7,城区\n", "row.2: too many or too few cells"),
    "a number that is none": (HEADER + "town,x,城区,stay_in,100,37.5 121.4\n", "row.2.number: found 'x'"),
    "not a number": (HEADER + "town,7,城区,stay_in,nan,37.5 121.4\n", "row.2.radius_m"),
    "rule": (HEADER + "town,7,城区,stay,100,37.5 121.4\n", "row.2.rule: found 'stay'"),
    "half a corner": (HEADER + "town,7,城区,stay_in,100,37.5\n", "row.2.corners.0.1: missing"),
    "two corners": (HEADER + "town,7,城区,stay_in,,37.5 121.4; 37.6 121.4\n", "row.2.corners: found 2"),
    "a circle of two": (HEADER + "town,7,城区,stay_in,100,37.5 121.4; 37.6 121.4\n", "row.2.corners: found 2"),
    "a corner twice": (HEADER + "town,7,城区,stay_in,,37.5 121.4; 37.6 121.4; 37.5 121.4\n", "row.2.corners: found 3"),
    "too many corners": (
        HEADER + f"town,7,城区,stay_in,,{';'.join(f'37.5 121.{n:03}' for n in range(CORNERS_MAX + 1))}\n",
        f"row.2.corners: found {CORNERS_MAX + 1}",
    ),
    "latitude": (HEADER + "town,7,城区,stay_in,100,97.5 121.4\n", "row.2.corners: found 97.5"),
    "radius": (HEADER + "town,7,城区,stay_in,5,37.5 121.4\n", "row.2.radius_m: found 5"),
    "zone": (HEADER + "town,0,城区,stay_in,100,37.5 121.4\n", "row.2.number: found 0"),
    "a zone that terminals use": (HEADER + "town,20,城区,stay_in,100,37.5 121.4\n", "row.2.number: found 20"),
    "id twice": (HEADER + "town,7,城区,stay_in,100,37.5 121.4\n" * 2, "row.3.id: 'town' stands in row.2 already"),
    "number twice": (
        HEADER + "a,7,城区,stay_in,100,37.5 121.4\nb,7,城区,stay_in,100,37.5 121.4\n",
        "number: 7 belongs to geofence",
    ),
    "not JSON": ("{", "file: Expecting property name"),
    "no features": ('{"type": "Feature"}', "file: 'features'"),
    "features that are none": ('{"features": 7}', "file: 'int' object is not iterable"),
    "a line": (
        json.dumps({"features": [{"properties": {}, "geometry": {"type": "LineString", "coordinates": [[1, 2]]}}]}),
        "feature.1.geometry: another",
    ),
    "no geometry": (json.dumps({"features": [{"properties": {}}]}), "feature.1.geometry: another"),
    "depth": ('{"features":' + "[" * 100_000, "file: "),
}


@pytest.mark.parametrize(("text", "complaint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_a_file_is_named_by_its_place(
    fangkong: Fangkong, tmp_path: Path, text: str, complaint: str
) -> None:
    code, _, said = fangkong("vehicle", "geofence", "import", written(tmp_path, text))

    assert code == 2
    assert complaint in said
    assert fangkong("vehicle", "geofence", "list")[1] == "no geofences 没有电子围栏\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("enrol", "van-7", "--kind", "taxi"), "id: 'van-7' is not in the ledger"),
        (("enrol", "van-7", "--kind", "taxi", "--site", "s2"), "site: 's2' is not in the ledger"),
        (("enrol", "van-7", "--kind", "taxi", "--site", "s1", "--limit-kmh", "900"), "limit_kmh: found 900.0"),
        (
            ("enrol", "van-7", "--kind", "taxi", "--site", "s1", "--geofence", "x"),
            "geofences: 'x' is not in the ledger",
        ),
        (("duty", "van-7", "on"), "'van-7' is no vehicle"),
    ],
)
def test_what_is_typed_in_wrong_is_named(fangkong: Fangkong, words: tuple[str, ...], complaint: str) -> None:
    code, _, said = fangkong("vehicle", *words)

    assert code == 2
    assert complaint in said


def test_a_vehicle_has_few_fences_and_each_once(fangkong: Fangkong, tmp_path: Path) -> None:
    rows = "".join(f"f{n},{n},围栏,stay_in,100,37.5 121.4\n" for n in range(1, FENCES_OF_VEHICLE_MAX + 2))
    assert fangkong("vehicle", "geofence", "import", written(tmp_path, HEADER + rows))[0] == 0
    enrol = ("vehicle", "enrol", "van-7", "--site", "s1", "--kind", "taxi")
    names = [word for n in range(1, FENCES_OF_VEHICLE_MAX + 2) for word in ("--geofence", f"f{n}")]

    assert f"at most {FENCES_OF_VEHICLE_MAX}, each once" in fangkong(*enrol, *names)[2]
    assert f"at most {FENCES_OF_VEHICLE_MAX}, each once" in fangkong(*enrol, "--geofence", "f1", "--geofence", "f1")[2]
    assert fangkong(*enrol, *names[2:])[0] == 0
