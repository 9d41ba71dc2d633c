"""Bringing readers into service: scan, set-address, pair, and what each says when something is wrong."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.osdp.secure import DEFAULT_KEY
from drivers.osdp.tools import tools
from gateway.config import read_secret
from gateway.driver import LinkClosed, Workbench
from simulators.osdp.reader import Reader
from tests.drivers.osdp_line import SimulatedLine, reader
from tests.dst.loop import SimulatedClock, SimulatedLoop

PORT = "/dev/ttyTEST"


def use(readers: Sequence[Reader], *words: str, baud: int = 9600, has_port: bool = True) -> tuple[int, str]:
    """Exit code and words of `fangkong tool osdp WORDS` on a line with these readers."""
    parser = argparse.ArgumentParser()
    tools(parser.add_subparsers(required=True))
    arguments = parser.parse_args([*words[:1], PORT, *words[1:]])
    loop = SimulatedLoop()
    line = SimulatedLine(loop, readers, baud=baud)
    said: list[str] = []

    @asynccontextmanager
    async def opened(port: str, at_baud: int) -> AsyncIterator[SimulatedLine]:
        assert port == PORT
        if not has_port:
            raise LinkClosed("no such port")
        # At another rate than the readers', what arrives is garbage to them.
        line.alter = (lambda data, _way: data) if at_baud == baud else lambda data, _way: bytes(len(data))
        yield line

    bench = Workbench(opened, SimulatedClock(loop), said.append, read_secret)
    try:
        code: int = loop.run_until_complete(arguments.tool(arguments, bench))
    finally:
        loop.close()
    return code, "\n".join(said)


def fresh(address: int, serial: int = 1) -> Reader:
    """As it leaves the factory: no key of its own."""
    return reader(address, key=None, insists=False, serial=serial)


def test_a_scan_finds_rate_address_and_who_it_is() -> None:
    code, said = use(
        [fresh(0, 7), fresh(3, 0x01020304)], "scan", "--to", "5", "--baud", "9600", "--baud", "38400", baud=38400
    )

    assert code == 0
    assert said.splitlines() == [
        "9600 baud ...",
        "38400 baud ...",
        "  address 0: vendor efcdab model 2.1 serial 00000007 firmware 1.2.3, secure channel",
        "  address 3: vendor efcdab model 2.1 serial 01020304 firmware 1.2.3, secure channel",
    ]


def test_a_scan_that_finds_nothing_says_what_to_look_at() -> None:
    code, said = use([], "scan", "--to", "2", "--baud", "9600")

    assert code == 1
    assert "nothing answers: check power, A and B" in said


@pytest.mark.parametrize("second", [fresh(0, 2), fresh(0, 0x0A0B0C0D)])
def test_two_readers_at_one_address_are_named(second: Reader, tmp_path: Path) -> None:
    readers = [fresh(0, 1), second]

    assert "address 0: two readers answer address 0" in use(readers, "scan", "--to", "0", "--baud", "9600")[1]
    code, said = use(readers, "pair", "0", str(tmp_path / "key"))
    assert code == 1
    assert "two readers answer address 0" in said
    assert not (tmp_path / "key").exists()
    assert "two readers answer address 0" in use(readers, "set-address", "0", "5")[1]
    assert [one.address for one in readers] == [0, 0]


def test_a_reader_gets_another_address_unless_it_is_taken() -> None:
    mover, holder = fresh(0), fresh(4)
    assert use([mover, holder], "set-address", "0", "4") == (1, "address 4 is taken: something answers there already")
    assert mover.address == 0

    assert use([mover, holder], "set-address", "0", "2") == (0, "the reader answers at address 2 now")
    assert mover.address == 2


def test_pairing_gives_a_reader_a_key_of_its_own_and_leaves_no_default_one(tmp_path: Path) -> None:
    keys = []
    for address in (1, 2):
        one = fresh(address)
        file = tmp_path / f"{address}.key"
        code, said = use([one], "pair", str(address), str(file))

        assert (code, said) == (0, f"paired: address {address} has the key in {file}, and the default key is dead")
        assert file.stat().st_mode & 0o777 == 0o600
        assert one.key is not None
        assert one.key.hex() == file.read_text().strip()
        keys.append(one.key)
    assert len({*keys, DEFAULT_KEY}) == 3


def test_pairing_names_what_is_wrong_and_leaves_no_key_file(tmp_path: Path) -> None:
    file = tmp_path / "new.key"
    paired = reader(1)
    without = reader(1, key=None, insists=False, has_channel=False)

    assert "nothing answers address 1" in use([], "pair", "1", str(file))[1]
    assert "address 1: reader without secure channel" in use([without], "pair", "1", str(file))[1]
    assert "address 1: wrong key: it does not take the default key" in use([paired], "pair", "1", str(file))[1]
    assert not file.exists()
    assert paired.key == reader(1).key
    file.write_text("something else")
    code, said = use([fresh(1)], "pair", "1", str(file))
    assert (code, said) == (1, f"{file}: File exists; expected a new file in a folder that is there")
    assert file.read_text() == "something else"


def test_a_paired_reader_is_paired_anew_with_the_key_it_has(tmp_path: Path) -> None:
    old, file, wrong = tmp_path / "old.key", tmp_path / "new.key", tmp_path / "wrong.key"
    one = reader(1)
    assert one.key is not None
    for path, text in ((old, one.key.hex()), (wrong, "11" * 16)):
        path.touch(mode=0o600)
        path.write_text(text)
    assert use([one], "pair", "1", str(file), "--install-key", str(wrong))[0] == 1

    code, _ = use([one], "pair", "1", str(file), "--install-key", str(old))
    assert code == 0
    assert one.key.hex() == file.read_text().strip() != old.read_text()


def test_a_reader_that_goes_on_taking_the_default_key_is_refused(tmp_path: Path) -> None:
    class Careless(Reader):
        def _challenged(self, frame: bytes, sequence: int, block: bytes, rnd_a: bytes) -> bytes:
            own, self.key = self.key, None if block[1] == 0 else self.key
            try:
                return super()._challenged(frame, sequence, block, rnd_a)
            finally:
                self.key = own

    one = fresh(1)
    careless = Careless(**{name: getattr(one, name) for name in ("address", "key", "random", "insists")})
    code, said = use([careless], "pair", "1", str(tmp_path / "key"))

    assert code == 1
    assert "the reader still takes the default key" in said
    assert "keep the file" in said


def test_silence_is_no_proof_that_the_default_key_is_dead(tmp_path: Path) -> None:
    class Elusive(Reader):
        """Falls silent when it is asked for a session under the default key, once it has its own."""

        def receive(self, frame: bytes, now_s: float) -> bytes:
            is_asked = frame[4] & 8 and frame[6:8] == b"\x11\x00"
            return b"" if is_asked and self.key is not None else super().receive(frame, now_s)

    one = fresh(1)
    elusive = Elusive(**{name: getattr(one, name) for name in ("address", "key", "random", "insists")})
    code, said = use([elusive], "pair", "1", str(tmp_path / "key"))

    assert code == 1
    assert "no session within" in said
    assert "keep the file" in said


def test_the_command_line_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.__main__ import main

    assert main(["tool"]) == 2
    assert main(["tool", "nmea"]) == 2
    assert "expected one of osdp" in capsys.readouterr().err
    assert main(["tool", "osdp", "scan", "/dev/no-such-port", "--baud", "9600"]) == 1
    assert "no such port" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["tool", "osdp", "pair", "/dev/x", "127", "key"])
    assert ended.value.code == 2
    assert "expected 0 to 126" in capsys.readouterr().err
