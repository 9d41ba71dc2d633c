"""A scenario file is played against a running gateway, and its expectations are held against the centre's record."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import simulators
from simulators.police_centre import PoliceCentre
from tests.stories.town import town

COMMUNITY = Path(simulators.__file__).parent / "community" / "scenario.toml"
SMALL = """\
seed = 7

[[device]]
simulator = "alarm_json"
id = "a{{n:03}}"
count = 2
connect = "{{mqtt}}"

[[step]]
at_s = 0.2
device = "a002"
do = "tamper"
restore_after_s = 0.5

[[expect]]
account = "A101"
code = "144"
zone = 2

[[expect]]
account = "A101"
code = "144"
zone = 2
qualifier = 3
count = {restores}
"""


async def play(*arguments: str | Path, within_s: float = 20) -> tuple[int, str, str]:
    """Exit code, output and complaints of `python -m simulators`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulators",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(within_s):
        output, complaints = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), complaints.decode()


async def test_the_communitys_scenario_is_in_order_and_its_acts_are_the_same_each_time() -> None:
    ports = (f"--set={name}=1502" for name in ("modbus", "door", "dc09", "jt808", "nmea"))
    addresses = ("--set=mqtt=mqtt://127.0.0.1:1883", "--set=pty=/tmp/rf0", "--set=osdp=/tmp/rs485", *ports)
    first, second = [await play(COMMUNITY, "--check", "--seconds", "30", *addresses) for _ in range(2)]

    code, acts, complaints = first
    assert (code, complaints) == (0, "")
    assert acts.splitlines()[0].split() == ["0.10", "s", "a001", "panic"]
    assert {"fence-2", "rf-1", "a013"} <= {line.split()[2] for line in acts.splitlines()}
    assert second == first


async def test_expectations_are_held_against_what_the_centre_took(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.toml", tmp_path / "wrong.toml"
    right.write_text(SMALL.format(restores=1))
    wrong.write_text(SMALL.format(restores=99))
    record = tmp_path / "centre.jsonl"
    async with PoliceCentre(record=record) as centre, town(tmp_path, centre=centre) as place:
        settings = ("--seconds", "3", "--record", record, f"--set=mqtt={place.box.broker_url}")

        assert await play(right, *settings) == (0, "raised 2, acknowledged 2\n", "")

        code, _, complaints = await play(wrong, *settings)
        assert code == 1
        assert complaints == "account A101 code 3144 zone 2: expected 99, the centre has 2\n"


async def test_expectations_without_a_record_are_refused_not_passed_over(tmp_path: Path) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SMALL.format(restores=1))
    arguments = (scenario, "--seconds", "0", "--set=mqtt=mqtt://127.0.0.1:1")

    code, _, complaints = await play(*arguments)

    assert code == 2
    assert "--record" in complaints
    assert (await play(*arguments, "--check"))[0] == 0


DESK = """\
seed = 1

[[device]]
simulator = "alarm_json"
id = "a001"
connect = "{mqtt}"

[[operator]]
at_s = 0
run = ["site", "add", "x", "--name", "x", "--account", "NOT-HEX"]

[[figure]]
at_s = 0.1
within_s = 0.2
counts = { required = 1000000 }

[[figure]]
at_s = 0.2
within_s = 0.2
node = "site:nowhere"
deficiencies = { silent = 1 }
"""


async def test_what_an_operator_cannot_do_and_figures_that_do_not_come_are_told(tmp_path: Path) -> None:
    scenario = tmp_path / "desk.toml"
    scenario.write_text(DESK)
    async with town(tmp_path) as place:
        settings = (scenario, "--seconds", "1", f"--set=mqtt={place.box.broker_url}")
        assert (await play(*settings))[::2] == (
            2, f"{scenario} has [[operator]] or [[figure]]: name the gateway's --site-file\n"
        )  # fmt: skip

        code, _, complaints = await play(*settings, "--site-file", place.box.folder / "site.toml", within_s=60)

    [refused, count, tickets] = complaints.splitlines()
    assert code == 1
    assert refused.startswith("0 s: fangkong site add x --name x --account NOT-HEX: exit code 2: ")
    assert count.startswith("0.1 s, all: required: expected 1000000, the gateway has ")
    assert tickets == "0.2 s, site:nowhere: deficiencies silent: expected 1, the gateway has 0"
