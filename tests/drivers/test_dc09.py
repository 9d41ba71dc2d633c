"""Panels that dial in: judged by siadc09, pysiaalarm and the dialler my-dc09-spt; unplugged, silent, garbled, slow, flooding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from my_dc09_spt.dc09_spt import dc09_spt
from pysiaalarm import SIAAccount, SIAEvent
from siadc09.account import Account
from siadc09.message import EventMessage, NullMessage, crc, parse_frame
from siadc09.xdata import Data

from drivers import dc09 as driver
from drivers.dc09 import codes, conversation, meaning
from drivers.dc09.settings import DEVIATIONS
from gateway.clock import Clock, RealClock
from gateway.driver import Context, FrameError, Kind, Observation, Qualifier, Secret
from gateway.errors import ConfigError
from gateway.links import tcp, udp
from gateway.links.stream import StreamLink
from gateway.loader import load_profiles
from gateway.plan import prepare
from tests.conftest import JumpingClock
from tests.driver_cases import Desk
from tests.driver_cases import driver as read_vectors
from tests.memory import memory_pair

WAIT_S = 20.0
NOW = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
PROFILES = load_profiles(driver)
KEYS = {128: b"GATEKEY-AES128-1", 192: b"GATEKEY-AES192-000000001", 256: b"GATEKEY-AES256-00000000000000001"}
BURGLARY = b'\nF193003B"ADM-CID"0001L0#A10B[#A10B|1130 02 017]_08:30:00,01-15-2027\r'
ACK_1 = b'\nB56F0012"ACK"0001L0#A10B[]\r'
DUH_1 = b'"DUH"0001L0#A10B[]'
SEALED = (
    b'\n5B850096"*ADM-CID"0005L0#A10B[D7AF4554BED6A14DA9CFDB370A999BD114B1347B5DB63FAEE6EF406FA623D6BE12CB47DDA053D357D58C'
    b"AA85FBB2C9F4F1EB545E813209EA67E955FD9F7638C5\r"
)


def context_of(key: bytes | None = None, *, account: str = "A10B", **settings: Any) -> Context:
    """One account, with this key as a text; no key: nobody is listed."""
    accounts = {"accounts": {account: {"key_file": "key"}}} if key else {}
    secrets = {"key": Secret(f"text:{key.decode()}")} if key else {}
    return Context(driver.Settings(**{**accounts, **settings}), PROFILES, "panels", secrets)


def framed(body: bytes) -> bytes:
    """With the CRC of siadc09."""
    return b"\n%04X0%03X%b\r" % (crc(body), len(body), body)


@asynccontextmanager
async def listening(
    desk: Desk, context: Context, *, scheme: str = "tcp", clock: Clock | None = None
) -> AsyncIterator[int]:
    """A port behind which the driver serves every peer at this desk."""
    desk.memory = driver.Memory()

    async def serve(link: StreamLink) -> None:
        await driver.run(desk.session(link, context, clock or RealClock()))

    listen: Any = {"tcp": tcp.listen, "udp": udp.listen}[scheme]
    async with asyncio.timeout(WAIT_S), listen(f"{scheme}-listen://127.0.0.1:0", serve) as listener:
        yield listener.port


async def until(desk: Desk, is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_true():
            desk.changed.clear()
            await desk.changed.wait()


@dataclass
class Line:
    """A panel's end of a line in memory."""

    far: StreamLink
    desk: Desk
    clock: JumpingClock

    async def ask(self, *frames: bytes) -> bytes:
        """Send; what has come back when everything has been settled."""
        await self.far.write(b"".join(frames))
        await self.clock.settle()
        got = b""
        while self.far._reader._bytes:  # type: ignore[attr-defined]  # what is there, without waiting for more
            got += await self.far.read()
        return got


@asynccontextmanager
async def talking(clock: JumpingClock, context: Context, desk: Desk | None = None) -> AsyncIterator[Line]:
    """The driver's conversation with one panel."""
    desk = desk or Desk(is_prompt=True)
    desk.memory = desk.memory or driver.Memory()
    near, far = memory_pair()
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(driver.run(desk.session(near, context, clock)))
        yield Line(far, desk, clock)
        task.cancel()


# -- judged by others --------------------------------------------------------------------------------------------------


@pytest.mark.peer("siadc09")
@pytest.mark.parametrize("bits", [None, *KEYS])
async def test_siadc09_sends_and_reads_the_answer(bits: int | None) -> None:
    key = KEYS.get(bits or 0)
    account = Account(acct=0xA10B, rcvr=1, pref=0x3F, key=key)
    desk = Desk(is_prompt=True)
    now = datetime.now(UTC)  # noqa: TID251  # as the peer has no other clock
    async with listening(desk, context_of(key)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        event = EventMessage(account, config={"idtoken": "ADM-CID", "data": Data(content=b"#A10B|1130 02 017")})
        writer.write(event.encode(seq=7, timestamp=now))
        answers = [parse_frame(await reader.readuntil(b"\r"), key)]
        writer.write(NullMessage(account).encode(seq=8, timestamp=now))
        answers.append(parse_frame(await reader.readuntil(b"\r"), key))
        writer.close()

    assert [(a.idtoken, a.seq, a.account.acct, a.account.rcvr, a.account.pref) for a in answers] == [
        ("ACK", 7, 0xA10B, 1, 0x3F), ("ACK", 8, 0xA10B, 1, 0x3F)
    ]  # fmt: skip
    assert all((a.timestamp is None) == (key is None) for a in answers)
    assert [(o.kind, o.zone, dict(o.values)) for o in desk.reported] == [
        (Kind.BURGLARY, 17, {"partition": 2}), (Kind.HEARTBEAT, None, {})
    ]  # fmt: skip


@pytest.mark.peer("my-dc09-spt")
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize("bits", [None, 128, 256])
async def test_the_dialler_my_dc09_spt_delivers_what_it_has(scheme: str, bits: int | None) -> None:
    key = KEYS.get(bits or 0)
    desk = Desk(is_prompt=True)
    async with listening(desk, context_of(key, account="1234"), scheme=scheme) as port:
        dialler = dc09_spt("1234")
        dialler.set_path("main", "primary", "127.0.0.1", port, account="1234", key=key, type=scheme)
        await asyncio.to_thread(dialler.send_msg, "ADM-CID", {"account": "1234", "code": 130, "q": 1, "zone": 14})
        await asyncio.to_thread(dialler.send_msg, "SIA-DCS", {"area": 2, "code": "FA", "zone": 3, "text": "lobby"})

        assert dialler.notSent() == 0
    assert [(o.device, o.kind, o.zone, o.text) for o in desk.reported] == [
        ("dc09-1234", Kind.BURGLARY, 14, "盗警"), ("dc09-1234", Kind.FIRE, 3, "lobby")
    ]  # fmt: skip
    assert not desk.rejected


@pytest.mark.peer("pysiaalarm")
@pytest.mark.parametrize("bits", [None, *KEYS])
def test_pysiaalarm_reads_the_same_and_takes_our_answer_for_its_own(bits: int | None) -> None:
    """In Contact ID; of SIA it reads one code, behind a slash."""
    key = KEYS.get(bits or 0)
    context = context_of(key)
    frames = [v.payload for v in read_vectors("dc09").vectors if not v.is_error and _is_known(v.payload, key)]
    read = []
    for frame in frames:
        line = frame.decode().strip("\n\r")
        try:
            theirs = SIAEvent.from_line(line, {"A10B": SIAAccount("A10B", key and key.decode(), allowed_timeband=None)})
        except Exception:  # noqa: BLE001  # of another key
            continue
        if not theirs.valid_message or not theirs.event_type:
            continue
        [ours] = driver.decode(frame, context)
        answer = driver.answer(frame, context)
        read.append(frame)

        assert (ours.code, ours.zone or ours.values.get("user", 0)) == (theirs.event_type, int(theirs.ri))
        assert (
            ours.qualifier
            is {"1": Qualifier.NEW, "3": Qualifier.RESTORE, "6": Qualifier.UPDATE}[theirs.event_qualifier]
        )
        if b"R1L3" in frame:  # without R it answers "None"
            assert answer == theirs.create_response()
    assert len(read) >= (5 if key is None else 1)


def _is_known(frame: bytes, key: bytes | None) -> bool:
    return (b'"*ADM-CID"' if key else b'"ADM-CID"') in frame and b"#A10B[" in frame


# -- silence, NAK, DUH, ACK --------------------------------------------------------------------------------------------


def kinds(desk: Desk) -> list[tuple[Kind, Qualifier]]:
    return [(seen.kind, seen.qualifier) for seen in desk.reported]


async def test_the_answer_repeats_what_the_panel_wrote_byte_for_byte(jumping_clock: JumpingClock) -> None:
    """Some panels take a capital or a lost zero for another receiver's answer."""
    frame = framed(b'"ADM-CID"0007R00aFL#a10b[#A10B|1130 01 002]')
    async with talking(jumping_clock, context_of()) as line:
        assert await line.ask(frame) == framed(b'"ACK"0007R00aFL#a10b[]')
    assert line.desk.deviations == [("dc09-A10B", "line_without_digits"), ("dc09-A10B", "no_timestamp")]


@pytest.mark.parametrize(
    ("off_s", "is_taken"), [(0, True), (20, True), (-40, True), (21, False), (-41, False), (8 * 3600, False)]
)
async def test_an_encrypted_frame_outside_the_window_gets_our_time(
    jumping_clock: JumpingClock, off_s: int, is_taken: bool
) -> None:
    jumping_clock.jump_wall(-off_s)
    async with talking(jumping_clock, context_of(KEYS[128])) as line:
        answer = await line.ask(SEALED)
    if is_taken:
        assert parse_frame(answer, KEYS[128]).idtoken == "ACK"
        assert kinds(line.desk) == [(Kind.BURGLARY, Qualifier.NEW)]
    else:
        time = f"{jumping_clock.now():%H:%M:%S,%m-%d-%Y}".encode()
        assert answer == framed(b'"NAK"0000R0L0A0[]_' + time)
        assert line.desk.reported == []
        assert line.desk.deviations == [("dc09-A10B", "outside_window")]
        assert line.desk.heard == []  # an old recording is no sign of life


async def test_before_our_own_clock_is_set_no_panel_is_told_a_time(jumping_clock: JumpingClock) -> None:
    jumping_clock.jump_wall(-57 * 365 * 86400)
    async with talking(jumping_clock, context_of(KEYS[128])) as line:
        assert b"ACK" in await line.ask(SEALED)


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (b'"ABC-DEF"0001L0#A10B[]', b'"DUH"0001L0#A10B[]'),
        (b'"ADM-CID"0001L0#A10B[#A10B|9130 01 002]', b'"DUH"0001L0#A10B[]'),
        (b'"SIA-DCS"0001L0#A10B[#A10B|Nri1]', b'"DUH"0001L0#A10B[]'),
        (b'"NULL"0001L0#A10B[][K0011223344556677]', b'"DUH"0001L0#A10B[]'),
        (b'"ACK"0001L0#A10B[]', b""),
        (b'"DUH"0001L0#A10B[]', b""),
    ],
)
async def test_what_cannot_be_used_is_told_so_and_answers_are_not_answered(
    jumping_clock: JumpingClock, frame: bytes, answer: bytes
) -> None:
    async with talking(jumping_clock, context_of()) as line:
        assert await line.ask(framed(frame)) == (framed(answer) if answer else b"")
    assert line.desk.reported == []
    assert line.desk.rejected == [b"" if b"[K" in frame else framed(frame)]  # a key is kept nowhere


@pytest.mark.parametrize(
    "frame",
    [
        BURGLARY.replace(b"F193", b"F194"),
        BURGLARY.replace(b"003B", b"0037"),
        BURGLARY[:-20],
        SEALED,
        BURGLARY.replace(b"1130", b"1140"),
    ],
    ids=["CRC", "length", "half", "no key", "content"],
)
async def test_damage_is_met_with_silence_and_the_next_frame_is_served(
    jumping_clock: JumpingClock, frame: bytes
) -> None:
    async with talking(jumping_clock, context_of()) as line:
        assert await line.ask(frame, BURGLARY) == ACK_1
    assert kinds(line.desk) == [(Kind.BURGLARY, Qualifier.NEW)]


async def test_the_strict_profile_takes_nothing_but_the_standard(jumping_clock: JumpingClock) -> None:
    context = context_of(profile="dc09_strict")
    good = [v for v in read_vectors("dc09").vectors if not v.is_error and not v.context.settings.accounts]
    async with talking(jumping_clock, context) as line:
        for vector in good:
            frames = list(driver.split(bytearray(vector.payload)))
            departs = any(driver.deviations(frame, vector.context) for frame in frames)
            answer = await line.ask(vector.payload)

            assert (b'"ACK"' in answer) != departs, vector.payload
    assert line.desk.rejected


def test_every_departure_that_has_a_name_is_read_and_named_in_a_vector() -> None:
    named = set()
    for vector in read_vectors("dc09").vectors:
        if not vector.is_error:
            for frame in driver.split(bytearray(vector.payload)):
                named |= set(driver.deviations(frame, vector.context))

    assert named == set(PROFILES["dc09_tolerant"].accepts) == DEVIATIONS


async def test_a_key_in_the_clear_on_a_keyed_account_is_told_of_and_kept_nowhere(jumping_clock: JumpingClock) -> None:
    async with talking(jumping_clock, context_of(KEYS[128])) as line:
        answer = await line.ask(framed(b'"NULL"0001L0#A10B[][K0011223344556677]'))
    assert answer == framed(DUH_1)
    assert kinds(line.desk) == [(Kind.SECURITY, Qualifier.NEW)]
    assert not any(b"0011223344556677" in kept for kept in (*line.desk.rejected, *(o.raw for o in line.desk.reported)))


def test_events_of_one_frame_are_no_repeats_of_each_other() -> None:
    seen = driver.decode(framed(b'"SIA-DCS"0007L0#A10B[#A10B|Nri1/BA005/TA006/BA007]'), context_of())
    assert len({event.repeat_key for event in seen}) == len(seen) == 3


def test_a_user_of_letters_is_no_code() -> None:
    """Nothing but the slash tells `AB`, an abort that goes to 110, from a user of that name."""
    [event] = driver.decode(framed(b'"SIA-DCS"0007L0#A10B[#A10B|Nri1/idAB/BA005]'), context_of())
    assert (event.kind, event.zone, dict(event.values)) == (Kind.BURGLARY, 5, {"partition": 1, "user": "AB"})


# -- somebody at the line ----------------------------------------------------------------------------------------------


async def test_plain_text_on_a_keyed_account_is_refused_and_told_once_until_it_is_over(
    jumping_clock: JumpingClock,
) -> None:
    async with talking(jumping_clock, context_of(KEYS[128])) as line:
        assert await line.ask(BURGLARY, BURGLARY) == framed(DUH_1) * 2
        assert kinds(line.desk) == [(Kind.SECURITY, Qualifier.NEW)]
        await line.ask(SEALED)
        assert kinds(line.desk)[1:] == [(Kind.SECURITY, Qualifier.RESTORE), (Kind.BURGLARY, Qualifier.NEW)]
        await line.ask(SEALED)
        await line.ask(BURGLARY)
        assert kinds(line.desk)[3:] == [(Kind.BURGLARY, Qualifier.NEW), (Kind.SECURITY, Qualifier.NEW)]


async def test_a_wrong_key_is_told_once_and_met_with_silence_also_after_a_restart(jumping_clock: JumpingClock) -> None:
    desk = Desk(is_prompt=True)
    for _ in range(2):  # the second with the memory of the first gone, and what it stored there
        desk.memory = None
        async with talking(jumping_clock, context_of(b"GATEKEY-AES128-2"), desk) as line:
            assert await line.ask(SEALED, SEALED) == b""
    assert kinds(desk) == [(Kind.SECURITY, Qualifier.NEW)]


async def test_a_word_that_was_not_stored_is_said_again(jumping_clock: JumpingClock) -> None:
    context = context_of(KEYS[128])
    desk = Desk(memory=driver.Memory())
    near, far = memory_pair()
    receiver = conversation.Receiver(desk.session(near, context, jumping_clock))
    await receiver.take(BURGLARY)
    desk.fail()
    desk.reported.clear()
    await far.close()

    assert await conversation.Receiver(desk.session(memory_pair()[0], context, jumping_clock)).take(BURGLARY) is None
    assert kinds(desk) == [(Kind.SECURITY, Qualifier.NEW)]


async def test_plain_text_passes_where_the_settings_say_so(jumping_clock: JumpingClock) -> None:
    async with talking(jumping_clock, context_of(KEYS[128], plain=True)) as line:
        assert await line.ask(BURGLARY) == ACK_1


async def test_strangers_are_kept_up_to_a_bound_or_refused(
    jumping_clock: JumpingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "ACCOUNTS_MAX", 2)
    frames = [framed(b'"NULL"0001L0#%04d[]' % n) for n in (1, 2, 3, 1)]
    async with talking(jumping_clock, context_of()) as line:
        answers = await line.ask(*frames)
    assert answers == b"".join(
        framed(b'"%b"0001L0#%04d[]' % pair) for pair in [(b"ACK", 1), (b"ACK", 2), (b"DUH", 3), (b"ACK", 1)]
    )

    async with talking(jumping_clock, context_of(KEYS[128], plain=True, strangers="refuse")) as line:
        assert await line.ask(BURGLARY, frames[0]) == ACK_1 + framed(b'"DUH"0001L0#0001[]')

    context = context_of(strangers="refuse")
    desk = Desk(is_prompt=True)
    session = replace(desk.session(memory_pair()[0], context, jumping_clock), is_enrolled=lambda d: d == "dc09-0002")
    for frame in frames[:2]:
        await conversation.Receiver(session).take(frame)
    assert [seen.device for seen in desk.reported] == ["dc09-0002"], "one that is enrolled is no stranger"


# -- identity and time -------------------------------------------------------------------------------------------------


def decoded(body: bytes, **settings: Any) -> list[Observation]:
    return list(driver.decode(framed(body), context_of(**settings)))


def test_the_same_message_has_the_same_key_and_no_other_has() -> None:
    def key(text: str) -> tuple[str | None, bool]:
        [seen] = decoded(text.encode())
        return seen.repeat_key, seen.key_is_reused

    first = key('"ADM-CID"0007L0#A10B[#A10B|1120 01 001]_08:30:00,01-15-2027')
    later = key('"ADM-CID"0007L0#A10B[#A10B|1120 01 001]_08:30:09,01-15-2027')
    happened = key('"ADM-CID"0007L0#A10B[#A10B|1120 01 001][H08:29:58,01-15-2027]_08:30:00,01-15-2027')
    others = [
        '"ADM-CID"0008L0#A10B[#A10B|1120 01 001]', '"ADM-CID"0007L0#A10B[#A10B|3120 01 001]',
        '"ADM-CID"0007L0#A10B[#A10B|1120 01 002]', '"ADM-CID"0007L0#A10B[#A10B|1120 01 001][H08:29:59,01-15-2027]',
    ]  # fmt: skip

    assert first == later
    assert first[1], "the number comes again"
    assert not happened[1], "a time of its own names it for ever"
    assert len({first[0], happened[0], *(key(other)[0] for other in others)}) == 2 + len(others)
    assert key('"ADM-CID"0000L0#A10B[#A10B|1120 01 001]')[0] is None


@pytest.mark.parametrize(
    ("stamp", "named"),
    [
        (NOW, None), (NOW + timedelta(seconds=20), None), (NOW + timedelta(hours=8, seconds=3), "timestamp_local"),
        (NOW - timedelta(hours=5, minutes=30), "timestamp_local"), (NOW + timedelta(minutes=11), "timestamp_off"),
        (NOW - timedelta(seconds=50), "timestamp_off"), (datetime(1970, 1, 1, tzinfo=UTC), "timestamp_not_set"),
        (datetime(2014, 1, 1, tzinfo=UTC), "timestamp_not_set"), (None, "no_timestamp"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plain_time_is_named(stamp: datetime | None, named: str | None) -> None:
    assert meaning.clock_deviation(stamp, NOW) == named


@pytest.mark.parametrize(
    ("extended", "stamp", "at"),
    [
        (b"", b"_08:30:00,01-15-2027", NOW),
        (b"", b"_16:30:00,01-15-2027", None),
        (b"", b"_00:00:00,01-01-1970", None),
        (b"[H05:00:00,01-15-2027]", b"_16:30:00,01-15-2027", NOW.replace(hour=5, minute=0)),
        (b"[H00:00:00,01-01-1970]", b"_08:30:00,01-15-2027", NOW),
    ],
)
async def test_a_wrong_time_is_not_that_of_the_event(
    jumping_clock: JumpingClock, extended: bytes, stamp: bytes, at: datetime | None
) -> None:
    async with talking(jumping_clock, context_of()) as line:
        await line.ask(framed(b'"ADM-CID"0007L0#A10B[#A10B|1120 01 001]' + extended + stamp))
    [seen] = line.desk.reported

    assert seen.at == at
    assert seen.key_is_reused == (b"H05" not in extended)


def test_each_panel_has_its_own_deadline() -> None:
    context = context_of(KEYS[128], every_s=60)
    fast = Context(driver.Settings(accounts={"A10B": {"every_s": 10}}), PROFILES)

    assert driver.heard_within_s("dc09-A10B", context) == 90
    assert driver.heard_within_s("dc09-A10B", fast) == 40
    assert driver.heard_within_s("dc09-FFFF", fast) == driver.HEARD_WITHIN_S == 25 * 3600


@pytest.mark.parametrize(
    ("profile", "secret", "found"),
    [
        ("dc09_tolerent", "text:GATEKEY-AES128-1", 'profile "dc09_tolerent" is not known'),
        ("mine", "text:GATEKEY-AES128-1", 'profile "mine" accepts crc'),
        ("dc09_strict", "GATEKEY-AES128-1", "key file key"),
        ("dc09_strict", "hex:00112233", "key file key"),
    ],
)
def test_a_mistake_is_found_before_the_start(profile: str, secret: str, found: str) -> None:
    profiles = {**PROFILES, "mine": driver.Profile(accepts=("crc",))}
    context = Context(driver.Settings(key_file="key", profile=profile), profiles, secrets={"key": Secret(secret)})
    [(told, _)] = driver.mistakes(context)

    assert told == found
    assert "GATEKEY" not in str(driver.mistakes(context))


def test_one_frame_is_not_made_into_more_events_than_a_panel_has() -> None:
    assert len(decoded(b'"SIA-DCS"0007L0#A10B[#A10B|N' + b"/".join([b"BA001"] * 64) + b"]")) == 64
    with pytest.raises(FrameError, match="65 codes"):
        decoded(b'"SIA-DCS"0007L0#A10B[#A10B|N' + b"/".join([b"BA001"] * 65) + b"]")


SITE = """
[[connection]]
name = "panels"
driver = "dc09"
link = "tcp-listen://127.0.0.1:4109?peers=5000"
[connection.settings.accounts.A10B]
key_file = "a10b.key"

[[connection]]
name = "panels-udp"
driver = "dc09"
link = "udp-listen://127.0.0.1:{udp}"
"""


def test_one_port_is_had_by_tcp_and_by_udp_once_each_and_a_bad_key_is_found(tmp_path: Path) -> None:
    site, key = tmp_path / "site.toml", tmp_path / "a10b.key"
    key.write_text("text:GATEKEY-AES128-1\n")
    key.chmod(0o600)
    site.write_text(SITE.format(udp=4109))
    plan = prepare(site)
    assert [planned.section.name for planned in plan.connections] == ["panels", "panels-udp"]
    assert "GATEKEY" not in repr(plan)

    site.write_text(SITE.format(udp=4109) + SITE.format(udp=4109).replace('"panels', '"again'))
    with pytest.raises(ConfigError, match=r"(?s)port 4109 is taken by .*UDP port 4109 is taken by"):
        prepare(site)

    site.write_text(SITE.format(udp=4110))
    key.write_text("GATEKEY-AES128-1")
    with pytest.raises(ConfigError, match=r"key file a10b\.key; expected an AES key is written text:"):
        prepare(site)


def test_a_site_names_codes_anew() -> None:
    own = driver.Profile(accepts=(), contact_id={"751": Kind.PANIC}, sia={"UX": Kind.BURGLARY})
    context = Context(driver.Settings(profile="own"), {"own": own})
    [cid] = driver.decode(framed(b'"ADM-CID"0007L0#A10B[#A10B|1751 01 001]'), context)
    [sia] = driver.decode(framed(b'"SIA-DCS"0007L0#A10B[#A10B|Nri1/UX001]'), context)

    assert (cid.kind, sia.kind) == (Kind.PANIC, Kind.BURGLARY)
    assert driver.mistakes(context) == []
    wrong = replace(context, profiles={"own": driver.Profile(sia={"UX": Kind.SECURITY})})
    assert [found for found, _ in driver.mistakes(wrong)] == ['profile "own" names UX security']


def test_the_tables_are_whole() -> None:
    assert (len(codes.CONTACT_ID), len(codes.SIA)) == (322, 334)
    assert {code for code, m in codes.SIA.items() if m.qualifier is Qualifier.RESTORE} >= {"BH", "BR", "AR", "CL", "TR"}
    assert all(m.words for m in (*codes.CONTACT_ID.values(), *codes.SIA.values()))
    assert not [m for m in codes.CONTACT_ID.values() if m.kind is Kind.COMM_FAULT], "a panel that tells was heard"
