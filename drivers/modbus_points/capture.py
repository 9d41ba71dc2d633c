"""What a recorded RTU transaction (a request and its answer, as a line monitor shows them) means under a profile. Pure.

Frames: unit, function, data, CRC-16 low byte first (Modbus over Serial Line V1.02, clause 2.5.1; functions 01 to 04 of
the Application Protocol V1.1b3, clauses 6.1 to 6.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drivers.modbus_points.profile import BIT_TABLES, BITS_MAX, REGISTERS_MAX, Profile, Request, Settings, profile_named
from drivers.modbus_points.readings import Image, PointState, image_of, level_of, observation, value_of
from gateway.driver import Context, FrameError, Observation, Qualifier, Refused, Table

REQUEST_SIZE = 8
EXCEPTION_SIZE = 5
TABLES: dict[int, Table] = {1: "coil", 2: "discrete_input", 3: "holding_register", 4: "input_register"}
EXCEPTIONS = {
    1: "it does not know this function",
    2: "it has no such address",
    3: "it does not take this count or value",
    4: "it failed",
    5: "it needs more time",
    6: "it is busy",
    8: "its memory has a parity error",
    10: "the gateway has no path to it",
    11: "it did not answer the gateway",
}
"""Modbus Application Protocol V1.1b3, clause 7."""


def exception_text(code: int) -> str:
    """An exception code in words."""
    return f"exception {code}: {EXCEPTIONS.get(code, 'a code that is not in the standard')}"


def crc16(data: bytes | bytearray) -> int:
    """Reflected polynomial A001, start FFFF."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _crc_fits(adu: bytes | bytearray) -> bool:
    return crc16(adu[:-2]) == int.from_bytes(adu[-2:], "little")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A valid read request."""

    unit: int
    function: int
    request: Request

    @property
    def payload_size(self) -> int:
        """Data bytes of its answer."""
        count = self.request.count
        return -(-count // 8) if self.request.table in BIT_TABLES else 2 * count


def _asked(adu: bytes | bytearray) -> _Asked | None:
    """The request these eight bytes are, if they are one."""
    table = TABLES.get(adu[1])
    if table is None or adu[0] == 0 or not _crc_fits(adu):
        return None
    count = int.from_bytes(adu[4:6], "big")
    if not 1 <= count <= (BITS_MAX if table in BIT_TABLES else REGISTERS_MAX):
        return None
    return _Asked(adu[0], adu[1], Request(table, int.from_bytes(adu[2:4], "big"), count))


def split(buffer: bytearray) -> Iterator[bytes]:
    """Cut transactions off the front. What is none is cut off as well, so that `decode` can say what is wrong with it.

    What stays is at most one request with an unfinished answer (8 + 255 bytes).
    """
    while len(buffer) >= REQUEST_SIZE:
        starts = range(len(buffer) - REQUEST_SIZE + 1)
        start = next((at for at in starts if _asked(buffer[at : at + REQUEST_SIZE])), None)
        if start != 0:
            size: int | None = len(starts) if start is None else start
        else:
            size = _transaction_size(buffer)
        if size is None:
            return
        frame = bytes(buffer[:size])
        del buffer[:size]
        yield frame


def _transaction_size(buffer: bytearray) -> int | None:
    """Length of the transaction that begins with a valid request; just the request when no answer follows; None: wait."""
    asked = _asked(buffer[:REQUEST_SIZE])
    assert asked is not None
    head = buffer[REQUEST_SIZE : REQUEST_SIZE + 3]
    if head[:2] == bytes([asked.unit, asked.function | 0x80])[: len(head)]:
        size = REQUEST_SIZE + EXCEPTION_SIZE
    elif head == bytes([asked.unit, asked.function, asked.payload_size])[: len(head)]:
        size = REQUEST_SIZE + EXCEPTION_SIZE + asked.payload_size
    else:
        return REQUEST_SIZE
    return size if len(buffer) >= size else None


def decode(frame: bytes, context: Context) -> Sequence[Observation]:
    """The state it shows: conditions as new, the rest as restore. One reading only: no debounce, no counters."""
    asked = _asked(frame[:REQUEST_SIZE]) if len(frame) >= REQUEST_SIZE else None
    if asked is None:
        raise FrameError(
            f"{len(frame)} bytes that do not begin with a read request (unit, function 01 to 04, address, count, CRC)"
        )
    device, profile = _meant(asked.unit, context)
    image = image_of(asked.request, _values(asked, frame[REQUEST_SIZE:]))
    return [*_shown(device, profile, image, frame)]


def _values(asked: _Asked, answer: bytes) -> list[int]:
    """The bits or registers of the answer."""
    if not answer:
        raise FrameError(f"unit {asked.unit}: no answer follows the request")
    if len(answer) < EXCEPTION_SIZE or not _crc_fits(answer):
        raise FrameError(f"unit {asked.unit}: the answer's CRC does not fit its {len(answer)} bytes", "checksum")
    if answer[0] != asked.unit:
        raise FrameError(f"unit {answer[0]} answered where unit {asked.unit} was asked")
    if answer[1] == asked.function | 0x80 and len(answer) == EXCEPTION_SIZE:
        raise FrameError(f"unit {asked.unit} refused, {exception_text(answer[2])}")
    data = answer[3:-2]
    if answer[1] != asked.function or not answer[2] == len(data) == asked.payload_size:
        raise FrameError(
            f"unit {asked.unit}: function {answer[1]} with {len(data)} data bytes"
            f" where function {asked.function} with {asked.payload_size} was asked for"
        )
    if asked.request.table in BIT_TABLES:
        return [data[index // 8] >> index % 8 & 1 for index in range(asked.request.count)]
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def _meant(unit: int, context: Context) -> tuple[str, Profile]:
    """Device id and profile by the connection's settings; without units, the one profile given and the unit's number."""
    settings = context.settings if isinstance(context.settings, Settings) else Settings()
    known = next((known for known in settings.units if known.unit == unit), None)
    if known is None and settings.units:
        raise FrameError(f"unit {unit} is not in the settings of this connection", "unknown_device")
    try:
        if known is not None:
            return known.device, settings.profile_of(known, context)
        only = next(iter(context.profiles)) if len(context.profiles) == 1 else None
        return str(unit), profile_named(settings.profile or only, context)
    except Refused as error:
        raise FrameError(f"unit {unit}: {error}") from error


def _shown(device: str, profile: Profile, image: Image, raw: bytes) -> Iterator[Observation]:
    for point in profile.point:
        value = value_of(point.read, image)
        if value is None or point.counter is not None or not point.kinds:
            continue
        level = level_of(point, value, PointState())
        qualifier = Qualifier.RESTORE if level is None else Qualifier.NEW
        yield observation(device, point, level or point.kinds[0], qualifier, value=value, raw=raw)
