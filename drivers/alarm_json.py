"""Wireless alarms that speak the gateway's own JSON over MQTT (docs/drivers/alarm_json.md, version 1).

A device repeats an event until it has the receipt, which leaves after the commit: the broker's word is not needed.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.driver import (
    INTEGER_MAX,
    Act,
    Command,
    Context,
    FrameError,
    Kind,
    LinkClosed,
    Message,
    NoAnswer,
    Observation,
    Position,
    Qualifier,
    Receipt,
    Scalar,
    Session,
    Topics,
    clean_text,
    json_object,
)
from gateway.driver import Settings as Section

LINK: Literal["topics"] = "topics"
RECEIPTS = True
HEARD_WITHIN_S: float | None = 90.0
"""Three heartbeats of the recommended 30 s. Battery devices have their own figure in the register of devices."""

PAYLOAD_MAX_BYTES = 64 * 1024
"""A full event has some 500 bytes."""
VALUES_MAX = 32
TEXT_MAX = 256
CODE_MAX = 64
VALUE_TEXT_MAX = 128
ZONE_MAX = 9999

OFFLINE_HOLD_S = 20.0
"""Longer than a restart of gateway and broker with everybody's reconnect, shorter than the first missed heartbeat."""
LOOK_S = 1.0
"""How much longer than that it may take."""
HELD_MAX = 10_000
"""Devices whose "offline" is held, some 5 MB; that of one more is reported at once."""

OBEYING_MAX = 10_000
"""Devices listed with what they obey."""

_TOPIC = re.compile(r"fangkong/v1/([A-Za-z0-9_.-]{1,64})/(event|heartbeat|availability|result)")
_SESSION = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_VALUE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")  # RFC 3339
_CRC = re.compile(rb',[ \t\r\n]*"crc"[ \t\r\n]*:[ \t\r\n]*"([0-9A-Fa-f]{8})"[ \t\r\n]*\}[ \t\r\n]*\Z')

# What the gateway says of its own commands is not for a device to say.
_KINDS = {kind.value: kind for kind in Kind if kind not in (Kind.HEARTBEAT, Kind.COMMAND)}
_QUALIFIERS = {qualifier.value: qualifier for qualifier in Qualifier}
_AVAILABILITY = {b"online": Qualifier.RESTORE, b"offline": Qualifier.NEW}


class Settings(Section):
    """What devices can be told: nothing that does not stand here."""

    obeys: Annotated[dict[str, frozenset[Act]], Field(max_length=OBEYING_MAX)] = Field(default_factory=dict)
    """Device, or `*` for all that are not named -> acts."""


def obeys(device: str, context: Context) -> frozenset[Act]:
    """As the settings say."""
    listed = context.settings.obeys if isinstance(context.settings, Settings) else {}
    return frozenset(listed.get(device, listed.get("*", ())))


def subscriptions(context: Context) -> Sequence[str]:
    return [f"fangkong/v1/+/{name}" for name in ("event", "heartbeat", "availability", "result")]


def decode(topic: str, payload: bytes, context: Context) -> Sequence[Observation]:
    """What the message says. Raises FrameError."""
    device, name = _address(topic)
    if name == "availability":
        return _availability(device, payload)
    message = _message(device, payload)
    if name == "result":
        result = _result(message)
        return [
            Observation(
                device, Kind.HEARTBEAT, code=result.word, text=result.text, values={"command": result.id}, raw=payload
            )
        ]
    if name == "heartbeat":
        return [Observation(device, Kind.HEARTBEAT, at=_time(message), values=_values(message), raw=payload)]
    return [_event(device, message, payload)]


def answer(topic: str, payload: bytes, context: Context) -> tuple[str, bytes] | None:
    """The receipt that goes back once the event is on disk; None for what needs none. Raises FrameError."""
    for seen in decode(topic, payload, context):
        return _receipt(seen)
    return None


async def run(session: Session[Topics]) -> None:
    """Ends by LinkClosed."""
    availability = Availability(session)
    try:
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(availability.watch(), name="availability"),
                group.create_task(_obey(session), name="orders"),
            ]
            await _hear(session, availability)
            for task in beside:
                task.cancel()
    except ExceptionGroup as ended:  # a lost line is to end this as plain LinkClosed, as with every other driver
        if len(ended.exceptions) > 1:
            raise
        raise ended.exceptions[0] from None


async def _hear(session: Session[Topics], availability: Availability) -> None:
    async for batch in session.link.batches():
        read: list[tuple[Message, Sequence[Observation]]] = []
        for message in batch:
            try:
                seen = _news(message, session.context)
            except FrameError as error:
                session.reject(message.payload, error)
                seen = ()  # acknowledged all the same: sent again it would be no better
            if seen and message.topic.endswith("/availability"):
                await _keep(session, read)
                read = []
                message.accept(after=await availability.changed(seen[0], is_live=not message.retained))
            else:
                if message.topic.endswith("/result"):
                    _end(session, seen)
                read.append((message, seen))
        await _keep(session, read)


# -- commands ------------------------------------------------------------------------------------------------------------


async def _obey(session: Session[Topics]) -> None:
    """Send what is asked, for ever. The device's result is found by the command's id."""
    async for order in session.orders:
        topic, now = f"fangkong/v1/{order.command.device}/command", session.clock.now()
        left_s = order.command.valid_s - order.age_s
        payload = _command(order.command, now + timedelta(seconds=left_s))
        if order.is_late():
            continue
        try:
            session.link.send(topic, payload, expiry_s=max(1, math.ceil(left_s)))
        except NoAnswer as error:
            order.failed(f"not sent: {error}")
        else:
            order.sent()


def _command(command: Command, expires_at: datetime) -> bytes:
    """The message to the device, with its checksum."""
    content = {
        "v": 1,
        "id": command.id,
        "act": command.act.value,
        "expires_at": _rfc3339(expires_at),
        "zone": command.zone,
        "seconds": command.seconds,
        "until": _rfc3339(command.until) if command.until else None,
    }
    named = {name: value for name, value in content.items() if value is not None}
    body = json.dumps(named, separators=(",", ":")).encode()[:-1]
    return body + b',"crc":"%08x"}' % zlib.crc32(body)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Result:
    """What a device says of a command."""

    id: str
    word: str
    text: str


def _result(message: dict[str, Any]) -> Result:
    command_id, word = message.get("id"), message.get("result")
    if not isinstance(command_id, str) or not _SESSION.fullmatch(command_id):
        raise FrameError('"id" is not 1 to 64 letters, digits or _ . : -')
    if word not in ("executed", "failed", "expired"):
        raise FrameError('"result" is none of executed, failed, expired')
    return Result(command_id, word, _text(message, "text", TEXT_MAX) or "")


def _end(session: Session[Topics], seen: Sequence[Observation]) -> None:
    """A device's word counts for its own commands only."""
    for result in seen:
        order = session.orders.awaiting(str(result.values["command"]))
        if order is None or order.command.device != result.device:
            continue
        if result.code == "executed":
            order.executed(f"its result: {result.text or result.code}")
        else:
            order.failed(f"its result: {result.code} {result.text or ''}".rstrip())


async def _keep(session: Session[Topics], read: Sequence[tuple[Message, Sequence[Observation]]]) -> None:
    """Report together what was read together: one commit, and every answer after it."""
    observations = [observation for _, seen in read for observation in seen]
    receipt = await session.report(observations) if observations else Receipt.settled()
    for message, seen in read:
        message.accept(after=receipt)
        for observation in seen:
            if (reply := _receipt(observation)) is not None:
                session.link.publish(*reply, after=receipt)


class Availability:
    """Who is online, as the broker repeats it at every subscription: reported once, when it differs from what is stored.

    "offline" is held for a moment: a broker that restarts says it of everybody, and they are back before a person
    could look. While it is held nothing is lost by a crash: the broker keeps the retained word for the next start.
    """

    def __init__(self, session: Session[Topics]) -> None:
        self._session = session
        self._held: dict[str, tuple[float, Observation]] = {}
        """Until when, in the order of their end."""
        self._underway: dict[str, tuple[Qualifier, Receipt]] = {}
        """Reported and not yet committed: as many as there are open receipts."""
        self._turn = asyncio.Lock()
        """Between asking what is stored and reporting, nobody else may report."""
        self._lost: Receipt | None = None
        """A report that was not committed."""

    async def changed(self, seen: Observation, *, is_live: bool) -> Receipt:
        """Take note of one availability message. The receipt of one that is held is settled."""
        async with self._turn:
            if seen.qualifier is Qualifier.RESTORE:
                self._held.pop(seen.device, None)
                if is_live:
                    self._session.heard(seen.device)
                return await self._report(seen)
            if seen.device not in self._held and len(self._held) >= HELD_MAX:
                return await self._report(seen)
            self._held.setdefault(seen.device, (self._session.clock.monotonic() + OFFLINE_HOLD_S, seen))
            return Receipt.settled()

    async def watch(self) -> None:
        """Report, for ever, those who stayed offline. Raises LinkClosed when that is not stored: they are told anew."""
        while True:
            await self._session.clock.sleep(LOOK_S)
            if self._lost is not None:
                raise LinkClosed(f"an availability could not be stored: {self._lost.error}")
            is_more = True
            while is_more:
                async with self._turn:  # for each anew, so that messages are not kept waiting by many
                    is_more = await self._report_overdue()

    async def _report_overdue(self) -> bool:
        """Report the one that is held longest, if long enough."""
        until, seen = next(iter(self._held.values()), (math.inf, None))
        if seen is None or until > self._session.clock.monotonic():
            return False
        del self._held[seen.device]
        await self._report(seen)
        return True

    async def _report(self, seen: Observation) -> Receipt:
        device = seen.device
        if device in self._underway:
            known: Qualifier | None = self._underway[device][0]
        else:
            known = (await self._session.latest(device)).get((Kind.COMM_FAULT, None))
        was_offline = known is not None and known is not Qualifier.RESTORE
        if was_offline == (seen.qualifier is not Qualifier.RESTORE):
            return Receipt.settled()
        receipt = await self._session.report([seen])
        self._underway[device] = (seen.qualifier, receipt)
        receipt.when_settled(lambda settled: self._settled(device, settled))
        return receipt

    def _settled(self, device: str, receipt: Receipt) -> None:
        if device in self._underway and self._underway[device][1] is receipt:
            del self._underway[device]
        if receipt.error is not None:
            self._lost = receipt


def _news(message: Message, context: Context) -> Sequence[Observation]:
    """What the message says that is not merely remembered by the broker. Raises FrameError."""
    seen = decode(message.topic, message.payload, context)
    if not message.retained or message.topic.endswith("/availability"):
        return seen
    if not message.topic.endswith("/event"):
        return ()  # was true once; no proof that the device lives, or that it did what it was told now
    raise FrameError("an event was published with the retain flag: it would come back at every start")


def _receipt(seen: Observation) -> tuple[str, bytes] | None:
    if seen.repeat_key is None:
        return None
    boot, _, seq = seen.repeat_key.rpartition("/")
    return f"fangkong/v1/{seen.device}/receipt", b'{"v":1,"session":"%s","seq":%s}' % (boot.encode(), seq.encode())


# -- reading -----------------------------------------------------------------------------------------------------------


def _address(topic: str) -> tuple[str, str]:
    found = _TOPIC.fullmatch(topic)
    if found is None:
        raise FrameError("topic is none of fangkong/v1/DEVICE/{event,heartbeat,availability}")
    return found[1], found[2]


def _availability(device: str, payload: bytes) -> Sequence[Observation]:
    if not payload:
        return ()  # somebody cleared the retained message: nothing is known any more
    if payload not in _AVAILABILITY:
        raise FrameError('availability is neither "online" nor "offline"')
    return [Observation(device, Kind.COMM_FAULT, _AVAILABILITY[payload], raw=payload)]


def _message(device: str, payload: bytes) -> dict[str, Any]:
    """The JSON object, checked for what both kinds of message share."""
    message = json_object(payload, size_max=PAYLOAD_MAX_BYTES)
    if "crc" in message:
        _check_crc(payload)
    if type(message.get("v")) is not int or message["v"] != 1:
        raise FrameError('"v" is not 1')
    if message.get("device") != device:
        raise FrameError('"device" differs from the device of the topic', "spoofed")
    return message


def _check_crc(payload: bytes) -> None:
    found = _CRC.search(payload)
    if found is None:
        raise FrameError('"crc" must be the last member, 8 hex digits')
    if zlib.crc32(payload[: found.start()]) != int(found[1], 16):
        raise FrameError("crc does not match: the message was damaged on its way", "checksum")


def _event(device: str, message: dict[str, Any], payload: bytes) -> Observation:
    name = _required_text(message, "kind")
    kind = _KINDS.get(name, Kind.UNKNOWN)
    code = _text(message, "code", CODE_MAX)
    text = _text(message, "text", TEXT_MAX)
    if kind is Kind.UNKNOWN:  # it travels on under the only names it has
        code, text = code or clean_text(name, CODE_MAX), text or clean_text(name, TEXT_MAX)
    return Observation(
        device,
        kind,
        _qualifier(message),
        zone=_whole(message, "zone", ZONE_MAX),
        at=_time(message),
        repeat_key=_repeat_key(message),
        code=code,
        text=text,
        values=_values(message),
        position=_position(message),
        test=_flag(message, "test"),
        raw=payload,
    )


def _qualifier(message: dict[str, Any]) -> Qualifier:
    qualifier = _QUALIFIERS.get(_required_text(message, "qualifier")) if "qualifier" in message else Qualifier.NEW
    if qualifier is None:
        raise FrameError('"qualifier" is none of new, restore, update')
    return qualifier


def _repeat_key(message: dict[str, Any]) -> str:
    boot = message.get("session")
    if not isinstance(boot, str) or not _SESSION.fullmatch(boot):
        raise FrameError('"session" is not 1 to 64 letters, digits or _ . : -')
    seq = _whole(message, "seq", INTEGER_MAX)
    if seq is None:
        raise FrameError('"seq" is missing')
    return f"{boot}/{seq}"


def _whole(message: dict[str, Any], name: str, most: int) -> int | None:
    value = message.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= most:  # bool is an int to Python, not to a device
        raise FrameError(f'"{name}" is not a whole number from 0 to {most}')
    return value


def _flag(message: dict[str, Any], name: str) -> bool:
    value = message.get(name, False)
    if type(value) is not bool:
        raise FrameError(f'"{name}" is not true or false')
    return value


def _required_text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise FrameError(f'"{name}" is not a text')
    return value


def _text(message: dict[str, Any], name: str, most: int) -> str | None:
    value = message.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FrameError(f'"{name}" is not a text')
    return clean_text(value, most)


def _time(message: dict[str, Any]) -> datetime | None:
    value = message.get("at")
    if value is None:
        return None
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise FrameError('"at" is not a time like 2026-03-01T02:03:04Z (RFC 3339)')
    date, second, fraction, zone = found.groups(default="")
    second = "59" if second == "60" else second  # a leap second, which datetime cannot hold
    try:
        return datetime.fromisoformat(date + second + fraction + zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FrameError('"at" is no moment of the calendar') from error


def _values(message: dict[str, Any]) -> dict[str, Scalar]:
    values = message.get("values", {})
    if not isinstance(values, dict) or len(values) > VALUES_MAX:
        raise FrameError(f'"values" is not an object with at most {VALUES_MAX} members')
    checked: dict[str, Scalar] = {}
    for name, value in values.items():
        if not _VALUE_NAME.fullmatch(name):
            raise FrameError('a name in "values" is not lower case letters, digits and _ (at most 32)')
        if isinstance(value, dict | list):
            raise FrameError('"values" is nested')
        checked[name] = clean_text(value, VALUE_TEXT_MAX) if isinstance(value, str) else value
    return checked


def _position(message: dict[str, Any]) -> Position | None:
    latitude, longitude = _degrees(message, "lat", 90), _degrees(message, "lon", 180)
    if latitude is None and longitude is None:
        return None
    if latitude is None or longitude is None:
        raise FrameError('"lat" and "lon" go together')
    return Position(latitude, longitude)


def _degrees(message: dict[str, Any], name: str, most: int) -> float | None:
    value = message.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not -most <= value <= most:
        raise FrameError(f'"{name}" is not a number from -{most} to {most}')
    return float(value)
