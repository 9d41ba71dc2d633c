"""`fangkong device claim --by-trigger` and `fangkong walk-test`, beside the API of a real box."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.audit import rows
from gateway.model import Device, Kind, Place, Point, Qualifier, Site
from tests.gateway.api_box import TOKEN, Box, closed_box, event

WITHIN_S = 30.0


@dataclass
class Desk:
    """The command line beside a box."""

    box: Box
    folder: Path

    async def begin(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *words, "--config", str(self.folder / "site.toml"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def run(self, *words: str) -> tuple[int | None, str]:
        async with asyncio.timeout(WITHIN_S):
            process = await self.begin(*words)
            said, _ = await process.communicate()
        return process.returncode, said.decode()

    async def claim(self, device: str, zone: int | None, *words: str) -> tuple[int | None, str]:
        """Trigger a device as soon as the command says that it listens."""
        async with asyncio.timeout(WITHIN_S):
            process = await self.begin("device", "claim", "--by-trigger", "--point", "planned", *words)
            assert process.stdout is not None
            heading = (await process.stdout.readline()).decode()
            if heading.startswith("trigger the device of planned"):
                place = self.box.registry.place(device, zone)
                await self.box.keep(event(device=device, zone=zone, place=place, received_at=self.box.clock.now()))
            said, _ = await process.communicate()
        return process.returncode, heading + said.decode()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN)
    async with closed_box(tmp_path / "var") as parts, parts.open() as box:
        await box.registry.add(
            Site("s1", "阳泗小区", "A10B"), Device("panel", "s1"), Point("door", "s1", 1, "前门", "panel", 1, "entrance"),
            Point("planned", "s1", 2, "后门"),
        )  # fmt: skip
        (tmp_path / "site.toml").write_text(f'[api]\nlisten = "127.0.0.1:{box.port}"\ntoken_file = "token"\n')
        yield Desk(box, tmp_path)


async def test_a_new_device_is_claimed_with_all_that_is_said_of_it(desk: Desk) -> None:
    said_of = ("--kind", "radio_sensor", "--vendor", "V", "--model", "M", "--parent", "panel", "--name", "门磁")
    code, said = await desk.claim("new-1", 3, *said_of, "--point-kind", "back_door", "--zone", "3")

    assert (code, "new-1" in said) == (0, True)
    ledger = desk.box.registry.snapshot
    assert ledger.devices["new-1"] == Device("new-1", "s1", "门磁", None, "radio_sensor", "V", "M", "panel")
    assert ledger.points["planned"] == Point("planned", "s1", 2, "后门", "new-1", 3, "back_door")
    assert next(rows(desk.box.audit.path)).subject == "device new-1"


async def test_a_new_zone_of_a_panel_in_the_ledger_is_claimed(desk: Desk) -> None:
    code, said = await desk.claim("panel", 7)

    assert (code, "panel" in said) == (0, True)
    assert desk.box.registry.snapshot.points["planned"].watchers == (("panel", 7),)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--point", "door"], "'door' is watched by panel already"), (["--point", "dor"], "'dor' is not in the ledger"),
     (["--point", "planned", "--within", "0"], "1 to 600 seconds are expected"), (["--point", "planned", "--within", "601"], "1 to 600")],
)  # fmt: skip
async def test_an_installer_does_not_wait_for_what_cannot_be(desk: Desk, words: list[str], said: str) -> None:
    code, heard = await desk.run("device", "claim", "--by-trigger", *words)

    assert (code, said in heard, "trigger the device" in heard) == (2, True, False)


async def test_what_stands_in_the_plan_and_what_the_ledger_does_not_take_is_refused(desk: Desk) -> None:
    code, said = await desk.claim("new-1", None, "--number", "5", "--site", "s1")
    assert (code, "--site, --number: not needed" in said) == (2, True)

    code, said = await desk.claim("new-1", None, "--parent", "nobody")
    assert (code, "nobody" in said) == (1, True)
    assert desk.box.registry.device("new-1") is None


async def test_a_refusal_names_the_option_that_was_typed(desk: Desk) -> None:
    code, said = await desk.run("walk-test", "start", "s1", "--minutes", "481", "--reason", "handover")
    assert (code, said.startswith("--minutes: "), "body" in said) == (1, True, False)

    code, said = await desk.run("walk-test", "start", "s1", "--reason", "r" * 5000)
    assert (code, said.startswith("--reason: "), "body" in said) == (1, True, False)

    code, said = await desk.claim("new-1", None, "--point-kind", "k" * 5000)
    assert (code, "--point-kind: " in said, "body" in said) == (1, True, False)


async def test_a_site_is_walked_accepted_and_its_sheet_verified(desk: Desk) -> None:
    sheet = desk.folder / "sheet.json"
    begun = await desk.run("walk-test", "start", "s1", "--point", "door", "--reason", "handover")
    assert (begun[0], "no alarm yet 未触发" in begun[1]) == (0, True)
    place = Place("s1", "A10B", "阳泗小区", "door", 1, "前门", "")
    at = desk.box.clock.now()
    for qualifier in (Qualifier.NEW, Qualifier.RESTORE):
        await desk.box.keep(
            event(device="panel", zone=1, kind=Kind.BURGLARY, qualifier=qualifier, test=True, place=place,
                  received_at=at)
        )  # fmt: skip
    assert f"{at + timedelta(hours=8):%H:%M:%S}" in (await desk.run("walk-test", "status", "s1"))[1]
    code, said = await desk.run("walk-test", "sheet", "s1", "--out", str(desk.folder / "no" / "sheet.json"))
    assert (code, said) == (1, f"{desk.folder / 'no' / 'sheet.json'}: No such file or directory 文件无法读写\n")
    assert (await desk.run("walk-test", "sheet", "s1", "--out", str(sheet)))[0] == 0
    assert "never accepted on this box" in (await desk.run("walk-test", "verify", str(sheet)))[1]

    assert (await desk.run("walk-test", "accept", "s1"))[0] == 0
    assert (await desk.run("walk-test", "sheet", "s1", "--out", str(sheet)))[0] == 0
    assert (await desk.run("walk-test", "verify", str(sheet))) == (0, "whole, and accepted on this box 完整,已验收\n")
    changed = json.loads(sheet.read_text("utf-8")) | {"tester": "nobody"}
    sheet.write_text(json.dumps(changed), "utf-8")
    assert (await desk.run("walk-test", "verify", str(sheet))) == (
        1,
        "changed: this is not what was written 已被改动\n",
    )
