"""`fangkong command`: its words are those of the acts, and it says plainly when nobody answers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gateway.__main__ import main
from gateway.acts import ACTS, Act
from gateway.audit import rows
from gateway.cli import command
from gateway.driver import Context
from gateway.model import Device, Site
from tests.gateway.api_box import TOKEN, closed_box


def test_every_act_has_its_verb() -> None:
    assert set(command.ACTS) == {act.value for act in Act}
    assert max(facts.valid_max_s + facts.evidence_s for facts in ACTS.values()) < command.WAIT_MAX_S


def test_without_a_gateway_nothing_is_asked_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[api]\nlisten = "127.0.0.1:1"\n', encoding="utf-8")

    assert main(["command", "open", "door-1", "--reason", "visitor", "--config", str(site)]) == 1
    assert main(["command", "list", "--json", "--config", str(site)]) == 1
    said = capsys.readouterr()
    assert said.err.count("no gateway answers") == 2
    assert not said.out


@pytest.mark.parametrize(
    "words", [["open", "door-1"], ["unlock", "d", "--reason", "x"], ["bypass", "d", "--reason", "x"]]
)
def test_what_an_act_needs_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["command", *words])

    assert left.value.code == 2
    assert "required" in capsys.readouterr().err


async def fangkong(site: Path, *words: str) -> tuple[int | None, str]:
    """Exit code and words of the command line beside a gateway."""
    output = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, "--config", str(site), **output
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_the_record_names_the_person_at_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "zhao")
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(TOKEN)
    driver = ModuleType("drivers.testing")
    driver.obeys = lambda device, context: frozenset(Act)  # type: ignore[attr-defined]  # what a driver may declare
    async with closed_box(tmp_path / "var") as parts, parts.open() as box:
        await box.registry.add(Site("s1", "near", "A10B"), Device("door-1", "s1"))
        box.switchboard.heard("door-1", box.switchboard.line("line1", driver, Context()))
        site = tmp_path / "site.toml"
        site.write_text(f'[api]\nlisten = "127.0.0.1:{box.port}"\ntoken_file = "token"\n')
        code, said = await fangkong(site, "command", "lock", "door-1", "--reason", "closing time", "--no-wait")

    assert (code, "issuer     os:zhao" in said) == (0, True)
    assert next(rows(box.audit.path)).actor == "os:zhao"


@pytest.mark.parametrize("answer", ["hello\r\n", "HTTP/1.0 404 No\r\n\r\n<html>", "HTTP/1.0 200 OK\r\n\r\n<html>"])
async def test_another_program_at_the_gateways_place_is_told_as_such(tmp_path: Path, answer: str) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        listen = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (tmp_path / "site.toml").write_text(f'[api]\nlisten = "{listen}"\n')
        code, said = await fangkong(tmp_path / "site.toml", "command", "list")

    assert (code, said.startswith(f"what answers at {listen} ([api] listen) is another program")) == (1, True)


async def test_without_the_boxs_own_token_it_says_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    site, new = tmp_path / "site.toml", tmp_path / "new.toml"
    async with closed_box(tmp_path / "var") as parts, parts.open(token=None) as box:
        site.write_text(f'[api]\nlisten = "127.0.0.1:{box.port}"\n')
        new.write_text(site.read_text() + "[gateway]\nname = 'other'\n")
        before = site.read_bytes()

        answers = [await fangkong(site, "command", "list"), await fangkong(site, "config", "apply", str(new))]

    assert [code for code, _ in answers] == [2, 1]
    assert all("api.token_file: none; expected a file with a secret" in said for _, said in answers)
    assert site.read_bytes() == before
