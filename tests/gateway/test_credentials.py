"""A card number leaves a driver as a keyed hash: the same again inside one box, and nothing more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.credentials import KeyFile, hashed
from gateway.driver import Context
from gateway.errors import ConfigError
from gateway.plan import prepare

CARD = bytes.fromhex("94d2a780")
SITE = '[gateway]\nname = "box-1"\naccount = "0001"\n'


@pytest.fixture
def key(tmp_path: Path) -> KeyFile:
    made = KeyFile(tmp_path / "credential.key")
    made.make()
    return made


def test_the_hash_is_hmac_sha_256_cut_to_16_digits() -> None:
    """RFC 4231, test case 1 (key of twenty 0b, "Hi There") and test case 2."""
    assert hashed(b"\x0b" * 20, b"Hi There") == "b0344c61d8db3853"
    assert hashed(b"Jefe", b"what do ya want for nothing?") == "5bdcc146bf60754e"


def test_the_key_is_made_once_for_the_owner_only(key: KeyFile) -> None:
    first = key.path.read_bytes()
    KeyFile(key.path).make()

    assert key.path.read_bytes() == first
    assert key.path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(rb"[0-9a-f]{64}\n", first)


def test_one_card_has_one_hash_and_after_a_rotation_another(key: KeyFile) -> None:
    first = key(CARD)
    again = KeyFile(key.path)(CARD)
    key.rotate()

    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first == again
    assert key(CARD) != first
    assert key(CARD) == KeyFile(key.path)(CARD)
    assert key.path.stat().st_mode & 0o777 == 0o600


def test_two_boxes_give_one_card_two_hashes(tmp_path: Path) -> None:
    hashes = set()
    for box in ("a", "b"):
        (tmp_path / box).mkdir()
        key = KeyFile(tmp_path / box / "credential.key")
        key.make()
        hashes.add(key(CARD))

    assert len(hashes) == 2


def test_neither_key_nor_card_is_shown_by_anything_that_prints_it(key: KeyFile) -> None:
    context = Context(credential=key)
    key(CARD)
    secret = key.path.read_text().strip()

    shown = repr(key) + repr(context) + repr(Context())
    assert secret not in shown
    assert repr(bytes.fromhex(secret)) not in shown


def test_a_disk_that_fails_meanwhile_stops_no_door(key: KeyFile) -> None:
    before = key(CARD)
    key.path.unlink()
    gone = key(CARD)
    key.path.write_text("spoilt\n")
    key.path.chmod(0o600)

    assert [gone, key(CARD)] == [before, before]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("ab" * 32, 0o640, "mode 0640"), ("ab", 0o600, "64 hex digits"), ("", 0o600, "64 hex digits")],
)
def test_a_key_that_cannot_be_used_is_named_before_the_start(tmp_path: Path, text: str, mode: int, said: str) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "var").mkdir()
    path = tmp_path / "var" / "credential.key"
    path.write_text(text)
    path.chmod(mode)

    with pytest.raises(ConfigError, match=said) as error:
        prepare(tmp_path / "site.toml")
    assert "ab" * 32 not in str(error.value)
    with pytest.raises(ConfigError, match=said):
        KeyFile(path).make()


def test_checking_a_site_file_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)

    assert prepare(tmp_path / "site.toml") == prepare(tmp_path / "site.toml")
    assert list(tmp_path.iterdir()) == [tmp_path / "site.toml"]


def test_the_command_rotates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    arguments = ["credential", "rotate", "--config", str(tmp_path / "site.toml")]
    assert main([*arguments, "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["file"])
    first = path.read_text()
    assert main(arguments) == 0

    assert path.read_text() != first
    assert "cannot be linked" in capsys.readouterr().out


def test_the_command_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "var").write_text("a file where the folder should be")

    assert main(["credential", "rotate", "--config", str(tmp_path / "site.toml")]) == 2
    assert "credential.key" in capsys.readouterr().err
