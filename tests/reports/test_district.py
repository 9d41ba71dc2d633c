"""The figures of a district from the files of its boxes, by the commands people type."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from openpyxl import load_workbook

from gateway.__main__ import main
from gateway.coverage.count import over, tree
from gateway.coverage.days import Month
from gateway.coverage.facts import Fact
from gateway.coverage.history import History
from gateway.coverage.requirements import Family, Networking, Requirement
from gateway.coverage.verdict import Rules
from gateway.registry import Registry
from gateway.reports.boxes import SCHEMA
from gateway.reports.district import HOUR_MS
from gateway.reports.editions import canonical
from tests.coverage.ledger import START, Ledger

MONTH = Month(2026, 1)
BOXES = 40
GONE = "box-7"
HEAD = "box,required,must_network,target_units\n"


def happened(box: int) -> list[Fact]:
    """A site of a box: four to six points, some without a device, some failing; its community is in one of three zones."""
    dice, ledger = Random(box), Ledger()
    ledger.area("Q", "district")
    for zone in range(3):
        ledger.area(f"Z{zone}", "control_zone", "Q")
    ledger.area(f"C{box % 6}", "community", f"Z{box % 3}")
    ledger.profile(
        "jewelry_store",
        Requirement("panic", "panic", networking=Networking.MUST),
        Requirement("room", "intrusion"),
        Requirement("window", "bars", family=Family.PHYSICAL),
    )
    site = f"S{box}"
    ledger.site(site, area=f"C{box % 6}", is_key_unit=box % 2 == 0)
    for each in range(4 + box % 3):
        device, point = f"D{box}-{each}", f"P{box}-{each}"
        ledger.device(device, site, vendor="V", model=f"M{each}")
        ledger.point(point, site, ("panic", "room", "room", "window")[each % 4], *[device] * dice.choice((0, 1, 1, 1)))
        ledger.works(point, device)
        failed = START + timedelta(days=31) * dice.random()
        ledger.health(device, dice.choice(("fault", "silent", "degraded")), failed)
        ledger.health(device, "working", failed + timedelta(days=2) * dice.random())
    ledger.proof(site, START + timedelta(days=30, hours=dice.randrange(16)))
    return ledger.facts


def box_with(folder: Path, name: str, facts: list[Fact]) -> Path:
    """A box that has published its January and exported it: the file."""
    folder.mkdir()
    site_file, out = folder / "site.toml", folder.parent / f"{name}.json"
    site_file.write_text(f'[gateway]\nname = "{name}"\n', encoding="utf-8")

    async def write() -> None:
        registry = await Registry.open(folder / "var" / "registry.db")
        await registry.record(facts)
        await registry.close()

    asyncio.run(write())
    for words in (["publish"], ["export", "--out", str(out)]):
        assert main(["report", words[0], "--config", str(site_file), "--month", "2026-01", *words[1:]]) == 0
    return out


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty exports and the roster of their boxes."""
    folder = tmp_path_factory.mktemp("district")
    for box in range(BOXES):
        box_with(folder / f"at-{box}", f"box-{box}", happened(box))
    lines = [f"box-{box},{box}号,C{box % 6},25,9,2" for box in range(BOXES)]
    (folder / "roster.csv").write_text(
        "\n".join(["网关,名称,区域,应装点位,应联点位,目标单位", *lines]), encoding="utf-8-sig"
    )
    return folder


def merged(sent: Path, *words: str, form: str = "json") -> bytes:
    out = sent / f"merged.out.{form}"
    roster = [] if "--roster" in words else ["--roster", str(sent / "roster.csv")]
    files = [str(path) for path in sent.glob("box-*.json") if path.stem not in words]
    given = [word for word in words if word not in {f"box-{box}" for box in range(BOXES)}]
    wish = ["report", "merge", *files, *roster, "--month", "2026-01", "--format", form, "--out", str(out), *given]
    assert main(wish) == 0
    return out.read_bytes()


def by_node(document: dict[str, Any]) -> dict[str, Any]:
    return {row["node"]: row for row in document["coverage"]}


def test_forty_exports_are_one_recount_over_all_facts(sent: Path) -> None:
    facts = (fact for box in range(BOXES) for fact in happened(box))
    history = History([replace(fact, id=number) for number, fact in enumerate(facts, 1)])
    counts = tree(history, MONTH.last_moment, rules=Rules())
    periods = over(history, MONTH.start, MONTH.end, rules=Rules())

    document = json.loads(merged(sent))
    rows = by_node(document)
    assert rows.keys() == counts.keys()
    assert len(rows) == 1 + 1 + 3 + 6 + BOXES
    for node, found in counts.items():
        for name in ("required", "installed", "working", "networked", "must_network", "waived", "degraded"):
            assert rows[node][name] == getattr(found, name), node
        assert rows[node]["target"] == [found.target_units_installed, found.target_units]
        assert rows[node]["physical"] == [found.physical_ok, found.physical]
        assert rows[node]["availability"] == list(periods[node].availability)
    assert 0 < counts["all"].working < counts["all"].installed < counts["all"].required
    assert sum(row["required"] for row in document["classes"]) == counts["all"].required
    assert document["not_reported"] == 0


def test_a_box_that_is_missing_is_printed_and_stays_in_the_denominator(sent: Path) -> None:
    whole, without = by_node(json.loads(merged(sent))), json.loads(merged(sent, GONE))
    here = whole["site:S7"]

    row = next(row for row in without["boxes"] if row["box"] == GONE)
    assert (row["state"], row["required"], row["basis"]) == ("not_reported", 25, "roster")
    nodes = by_node(without)
    for node in ("all", "area:Q", "area:Z1", "area:C1"):
        assert nodes[node]["required"] == whole[node]["required"] - here["required"] + 25
        assert nodes[node]["installed"] == whole[node]["installed"] - here["installed"]
        assert nodes[node]["must_network"] == whole[node]["must_network"] - here["must_network"] + 9
        assert nodes[node]["target"][1] == whole[node]["target"][1] - here["target"][1] + 2
    page = merged(sent, GONE, form="html").decode()
    assert "已上报 39, 未上报 1: box-7。其应装点位计入分母" in page
    assert "<td>未上报</td>" in page


def test_what_it_last_declared_goes_before_the_roster(sent: Path, tmp_path: Path) -> None:
    earlier = json.loads((sent / f"{GONE}.json").read_bytes())["document"]
    earlier["month"], december = "2025-12", MONTH.plus(-1)
    earlier["figures"] |= {"start": december.start.isoformat(), "end": december.end.isoformat()}
    (tmp_path / "december.json").write_bytes(signed(earlier))
    whole = by_node(json.loads(merged(sent)))

    document = json.loads(merged(sent, GONE, "--last", str(tmp_path)))
    row = next(row for row in document["boxes"] if row["box"] == GONE)
    assert (row["state"], row["required"], row["basis"]) == ("not_reported", whole["site:S7"]["required"], "2025-12")
    nodes = by_node(document)
    for node in ("all", "site:S7", "area:C1"):
        assert nodes[node]["required"] == whole[node]["required"]
    assert nodes["site:S7"]["installed"] == 0
    assert nodes["site:S7"]["availability"] == [0, whole["site:S7"]["required"] * 31 * 24 * HOUR_MS]


def test_the_formats_say_the_same(sent: Path) -> None:
    document = json.loads(merged(sent, GONE))
    tables = [value for value in document.values() if isinstance(value, list)]

    lines = list(csv.reader(io.StringIO(merged(sent, GONE, form="csv").decode("utf-8-sig"))))
    assert len(lines) == sum(len(table) + 1 for table in tables) + len(tables) - 1
    book = load_workbook(io.BytesIO(merged(sent, GONE, form="xlsx")))
    assert [sheet.max_row - 1 for sheet in book] == [len(table) for table in tables]
    part, whole = document["coverage"][0]["availability"]
    assert f"({part // HOUR_MS}/{whole // HOUR_MS} h)" in merged(sent, GONE, form="html").decode()
    below = sorted(f"site:S{box}" for box in range(1, BOXES, 6))
    assert list(by_node(json.loads(merged(sent, "--node", "C1")))) == ["area:C1", *below]


def test_the_same_month_is_exported_in_the_same_bytes(sent: Path) -> None:
    again, site_file = sent / "again.out", sent / "at-3" / "site.toml"

    assert main(["report", "export", "--config", str(site_file), "--month", "2026-01", "--out", str(again)]) == 0
    assert again.read_bytes() == (sent / "box-3.json").read_bytes()


def signed(document: dict[str, Any]) -> bytes:
    return canonical({"document": document, "sha256": hashlib.sha256(canonical(document)).hexdigest()})


def rewritten(**changed: object) -> Callable[[bytes], bytes]:
    """Such a file with another value, and a hash that fits."""
    return lambda content: signed(json.loads(content)["document"] | changed)


REFUSED: dict[str, Callable[[bytes], bytes]] = {
    "was changed since box box-0 wrote it": lambda content: content.replace(b'"required":', b'"required":1', 1),
    "report export --month 2026-01": lambda content: content.replace(b'"edition":1', b'"edition":2'),
    f"is written in schema 2, this program reads {SCHEMA}": rewritten(schema=2),
    "says it is of 2025-12": rewritten(month="2025-12"),
    "counts by other rules": rewritten(rules={"target_kinds": []}),
    "is no export of a box": lambda _content: b'{"box": "box-0"}',
    "it would count twice": lambda content: content.replace(b"box-0", b"box-1"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_by_its_name(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    bad = tmp_path / "box-0.json"
    content = REFUSED[said]((sent / "box-0.json").read_bytes())
    bad.write_bytes(signed(json.loads(content)["document"]) if said == "it would count twice" else content)
    files = [bad, sent / "box-2.json"]

    wish = ["report", "merge", *map(str, files), "--roster", str(sent / "roster.csv"), "--month", "2026-01"]
    if said == "it would count twice":
        wish.insert(2, str(sent / "box-0.json"))
    assert main(wish) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "box-0" in told


def test_another_month_a_double_and_a_stranger_are_refused(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(sent / "box-1.json", tmp_path / "copy.json")
    (tmp_path / "roster.toml").write_text(
        '[[box]]\nbox = "box-2"\nrequired = 4\nmust_network = 0\ntarget_units = 1\n', encoding="utf-8"
    )
    common = ["--roster", str(sent / "roster.csv")]

    def told(*words: str) -> str:
        assert main(["report", "merge", *words]) == 1
        return capsys.readouterr().err

    one = str(sent / "box-1.json")
    assert "is of 2026-01, not of 2026-02: leave it out" in told(one, *common, "--month", "2026-02")
    assert "box box-1 has reported twice, also in" in told(
        one, str(tmp_path / "copy.json"), *common, "--month", "2026-01"
    )
    stranger = told(one, "--roster", str(tmp_path / "roster.toml"), "--month", "2026-01")
    assert "box box-1 is not on the roster" in stranger


@pytest.mark.parametrize(
    ("roster", "said"),
    [
        (f"{HEAD}box-1,4,0,0\nbox-1,4,0,0\n", "box no. 2: box-1 is there twice"),
        (
            f"{HEAD}box-1,many,0,0\n",
            "box no. 1: required: how many are planned there is expected, 0 if none, not 'many'",
        ),
        (f"{HEAD}box-1,4,,0\n", "box no. 1: must_network: how many"),
        (f"{HEAD},4,0,0\n", "box no. 1: box: the name"),
        ("box,points\nbox-1,4\n", "points: box, name, area, required, must_network, target_units are expected"),
        (HEAD, "0 boxes; 1 to 1000 are expected"),
        (HEAD + "".join(f"b{n},1,0,0\n" for n in range(1001)), "1001 boxes; 1 to 1000"),
    ],
)
def test_a_roster_is_checked_line_by_line(
    sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], roster: str, said: str
) -> None:
    (tmp_path / "roster.csv").write_text(roster, encoding="utf-8")

    wish = [str(sent / "box-1.json"), "--roster", str(tmp_path / "roster.csv"), "--month", "2026-01"]
    assert main(["report", "merge", *wish]) == 1
    assert said in capsys.readouterr().err


def test_nothing_is_exported_before_it_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.toml").write_text("", encoding="utf-8")

    assert main(["report", "export", "--config", str(tmp_path / "site.toml"), "--month", "2026-01"]) == 1
    assert "fangkong report publish --month 2026-01" in capsys.readouterr().err
