"""Modbus slaves as the field has them: a fence controller, a remote I/O, an end-of-line module; over TCP and RTU.

One `Spec` is one slave. Slaves with the same `connect` hang on the same wire:

    modbus+tcp://127.0.0.1:1502            a listening port
    modbus+rtu:///dev/ttyS1?baud=9600      a serial line; a path that does not exist becomes a pseudo terminal of that name

Options: `model` (one of MODELS; default relay_io16), `unit` (default: the lowest free number on the
wire), `late_s` (default 0.5). With `baud` in the address every exchange takes the time its bytes would need.

`do` takes the kinds the model knows, and as misbehaviour: silent, back, late, wrong_unit, garble (one bit of the answer
is flipped), exception (its code as `zone`, default 4), stuck (relays acknowledge and do not move). `back`
ends all of these. Written from the Modbus Application
Protocol V1.1b3 and Modbus over Serial Line V1.02. Modbus has no acknowledgement, so the ledger knows only "raised".
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import pack, unpack

from simulators._clock import Clock
from simulators._modbus_wire import wire_of
from simulators._world import Simulated, Spec, World

# -- the models: what stands where, as their maker would document it ------------------------------------------------------

COILS, INPUTS, HOLDING, INPUT_WORDS = 1, 2, 3, 4  # by the function that reads them
SIZES = {COILS: 32, INPUTS: 32, HOLDING: 128, INPUT_WORDS: 64}
PULSES_LOW, PULSES_HIGH = 100, 101
PULSE_TENTHS = 40
SWITCHED_MAX = 1000


@dataclass(frozen=True)
class Place:
    """Where a condition shows, and the values that mean it and its absence."""

    table: int
    address: int
    active: int
    quiet: int


Model = dict[tuple[str, int], Place]


def _doors(count: int, table: int, inputs: int, relays: int) -> Model:
    """For each door a contact (closed = 1), an exit button and the relay of its lock: zones n1, n2, n3."""
    places: Model = {}
    for door in range(count):
        places["door_open", 10 * door + 11] = Place(table, inputs + 2 * door, 0, 1)
        places["exit_request", 10 * door + 12] = Place(table, inputs + 2 * door + 1, 1, 0)
        places["unlocked", 10 * door + 13] = Place(COILS, relays + door, 1, 0)
    return places


MODELS: dict[str, Model] = {
    "fence8": {
        **{("perimeter", zone): Place(INPUTS, zone - 1, 1, 0) for zone in range(1, 9)},
        ("tamper", 100): Place(INPUTS, 16, 1, 0),
        ("ac_loss", 101): Place(INPUT_WORDS, 30, 0, 2304),
        ("batt_low", 102): Place(INPUT_WORDS, 31, 104, 136),
    },
    "relay_io16": {
        **{("burglary", zone): Place(INPUTS, zone - 1, 0, 1) for zone in range(1, 16)},
        ("burglary", 16): Place(HOLDING, PULSES_LOW, 1, 0),  # a pulse: it adds to the counter
    },
    "door_io4": _doors(2, INPUTS, 0, 0),
    "door_relay8": _doors(4, INPUTS, 0, 0),
    "door_adam6050": _doors(6, COILS, 0, 16),
    "perimeter_io12": {
        **{("door_open", 11 + n): Place(INPUTS, n, 0, 1) for n in range(4)},
        **{("device_fault", 21 + n): Place(INPUTS, 4 + n, 1, 0) for n in range(4)},
        **{("device_fault", 31 + n): Place(INPUTS, 8 + n, 0, 1) for n in range(2)},
        ("ac_loss", 41): Place(INPUTS, 10, 0, 1),
        ("tamper", 42): Place(INPUTS, 11, 0, 1),
    },
    "vibration4": {
        ("tamper", 100): Place(INPUTS, 0, 1, 0),
        ("tamper", 101): Place(INPUTS, 1, 1, 0),
        ("ac_loss", 102): Place(INPUTS, 2, 1, 0),
        **{("device_fault", 11 + n): Place(INPUT_WORDS, 16 + n, 1000, 20) for n in range(4)},
    },
    "loop_eol8": {
        **{("burglary", zone): Place(INPUT_WORDS, zone - 1, 4400, 2200) for zone in range(1, 9)},
        **{("tamper", zone): Place(INPUT_WORDS, zone - 1, 65535, 2200) for zone in range(1, 9)},
        **{("loop_fault", zone): Place(INPUT_WORDS, zone - 1, 3300, 2200) for zone in range(1, 9)},
    },
}
MODEL_NUMBER = 0x4508  # loop_eol8 shows it in holding register 0


class Memory:
    """A slave's four tables and its answers to requests.

    The relays of relay_io16 are its coils; holding register 40 + n holds the length of relay n's pulse in tenths of a
    second, 0: it stays as it is written.
    """

    def __init__(self, model: str, clock: Clock) -> None:
        self._clock = clock
        self._off_at: dict[int, float] = {}
        """Relays under way, and when they fall back."""
        self.is_stuck = False
        """Writes are acknowledged and change nothing: a relay whose contact does not move."""
        self.switched: deque[tuple[int, int]] = deque(maxlen=SWITCHED_MAX)
        """Coil and value of each write that took effect, also of pulses that ended."""
        self.tables = {table: [0] * size for table, size in SIZES.items()}
        self.tables[HOLDING][0] = MODEL_NUMBER if model == "loop_eol8" else 0
        for place in MODELS[model].values():
            self.tables[place.table][place.address] = place.quiet

    def answer(self, pdu: bytes) -> bytes:
        """The answer to function and data of a request; an exception for what the device does not have."""
        function = pdu[0]
        self._fall_back()
        try:
            if function in {COILS, INPUTS, HOLDING, INPUT_WORDS}:
                return bytes([function]) + self._read(function, *unpack(">HH", pdu[1:5]))
            if function in {5, 6}:
                self._write_one(function, *unpack(">HH", pdu[1:5]))
                return pdu[:5]
            if function in {15, 16}:
                self._write_many(function, pdu)
                return pdu[:5]
        except _DeviceError as error:
            return bytes([function | 0x80, error.code])
        except struct.error:  # shorter than its function needs
            return bytes([function | 0x80, 3])
        return bytes([function | 0x80, 1])

    def _read(self, table: int, address: int, count: int) -> bytes:
        values = self._span(table, address, count, 2000 if table in {COILS, INPUTS} else 125)
        if table in {HOLDING, INPUT_WORDS}:
            return bytes([2 * count]) + pack(f">{count}H", *values)
        packed = bytearray(-(-count // 8))
        for index, bit in enumerate(values):
            packed[index // 8] |= bit << index % 8
        return bytes([len(packed)]) + packed

    def _write_one(self, function: int, address: int, value: int) -> None:
        if function == 6:
            self._span(HOLDING, address, 1, 1)
            self.tables[HOLDING][address] = value
            return
        if value not in {0x0000, 0xFF00}:
            raise _DeviceError(3)
        self._span(COILS, address, 1, 1)
        self._switch(address, [value // 0xFF00])

    def _write_many(self, function: int, pdu: bytes) -> None:
        address, count, size = unpack(">HHB", pdu[1:6])
        body = pdu[6:]
        table, count_max, expected = (COILS, 1968, -(-count // 8)) if function == 15 else (HOLDING, 123, 2 * count)
        self._span(table, address, count, count_max)
        if not size == len(body) == expected:
            raise _DeviceError(3)
        if function == 15:
            self._switch(address, [body[index // 8] >> index % 8 & 1 for index in range(count)])
        else:
            self.tables[table][address : address + count] = unpack(f">{count}H", body)

    def _switch(self, address: int, bits: Sequence[int]) -> None:
        if self.is_stuck:
            return
        for coil, bit in enumerate(bits, address):
            self.tables[COILS][coil] = bit
            self.switched.append((coil, bit))
            self._off_at.pop(coil, None)
            tenths = self.tables[HOLDING][PULSE_TENTHS + coil]
            if bit and tenths:
                self._off_at[coil] = self._clock.monotonic() + tenths / 10

    def _fall_back(self) -> None:
        now = self._clock.monotonic()
        for coil in [coil for coil, at in self._off_at.items() if at <= now]:
            self._switch(coil, [0])

    def _span(self, table: int, address: int, count: int, count_max: int) -> list[int]:
        if not 1 <= count <= count_max:
            raise _DeviceError(3)
        if address + count > SIZES[table]:
            raise _DeviceError(2)
        return self.tables[table][address : address + count]


class _DeviceError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


# -- one slave ------------------------------------------------------------------------------------------------------------

OPTIONS = frozenset({"model", "unit", "late_s"})
MISBEHAVIOUR = frozenset({"silent", "late", "wrong_unit", "garble", "exception", "stuck"})


class Slave:
    """One simulated device on a wire. Satisfies `Simulated`."""

    def __init__(self, spec: Spec, world: World) -> None:
        self.model = str(spec.options.get("model") or "relay_io16")
        if self.model not in MODELS:
            raise ValueError(f'model "{self.model}" of {spec.device} is not known; one of {", ".join(MODELS)}')
        self.device = spec.device
        self.memory = Memory(self.model, world.clock)
        self.late_s = float(spec.options.get("late_s") or 0.5)
        self.wire = wire_of(spec.connect, world)
        self.unit = self.wire.join(self, int(spec.options.get("unit") or 0))
        self.mood = ""
        """The misbehaviour it is in; empty when it behaves."""
        self.exception_code = 4
        self._world = world
        self._raised = 0

    async def run(self) -> None:
        """Answer on the wire until cancelled. One of the slaves of a wire keeps it open; when it goes, the next does."""
        self.wire.units[self.unit] = self
        try:
            async with self.wire.held:
                await self.wire.serve()
        finally:
            del self.wire.units[self.unit]

    def check(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.check."""
        if what != "back" and what not in MISBEHAVIOUR:
            self._zone(what, zone)

    async def do(self, what: str, *, restore: bool = False, zone: int | None = None) -> None:
        """See Simulated.do."""
        if what == "back" or (what in MISBEHAVIOUR and restore):
            self.mood = ""
            self.memory.is_stuck = False
        elif what == "stuck":
            self.memory.is_stuck = True
        elif what in MISBEHAVIOUR:
            self.mood, self.exception_code = what, zone or 4
        else:
            self._raise(what, self._zone(what, zone), restore=restore)

    def _zone(self, what: str, zone: int | None) -> int:
        zones = [known for kind, known in MODELS[self.model] if kind == what]
        if not zones:
            kinds = sorted({kind for kind, _ in MODELS[self.model]} | MISBEHAVIOUR | {"back"})
            raise ValueError(f'{self.model} cannot do "{what}"; it knows {", ".join(kinds)}')
        chosen = zones[0] if zone is None else zone
        if chosen not in zones:
            raise ValueError(f"{self.model} has no {what} in zone {zone}; it has {zones[0]} to {zones[-1]}")
        return chosen

    def _raise(self, what: str, zone: int, *, restore: bool) -> None:
        place = MODELS[self.model][what, zone]
        table = self.memory.tables[place.table]
        if place.address == PULSES_LOW and place.table == HOLDING:
            if restore:
                return  # a pulse is over by itself
            pulses = (table[PULSES_HIGH] << 16 | table[PULSES_LOW]) + 1
            table[PULSES_HIGH], table[PULSES_LOW] = pulses >> 16 & 0xFFFF, pulses & 0xFFFF
        else:
            table[place.address] = place.quiet if restore else place.active
        self._raised += 1
        ref = f"{self.device}-{self._raised}"
        self._world.ledger.raised("modbus_points", self.device, what, restore=restore, zone=zone, ref=ref)

    def answer(self, pdu: bytes) -> bytes:
        """Function and data that go back, in its present mood."""
        if self.mood == "exception":
            return bytes([pdu[0] | 0x80, self.exception_code])
        return self.memory.answer(pdu)


def make(spec: Spec, world: World) -> Slave:
    """One slave; see the module's text for `connect` and the options."""
    return Slave(spec, world)


_: Callable[[Spec, World], Simulated] = make
