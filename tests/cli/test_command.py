"""`fangkong command`: its words are those of the acts, and it says plainly when nobody answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.acts import ACTS, Act
from gateway.cli import command


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
