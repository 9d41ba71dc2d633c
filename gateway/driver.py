"""The one door between drivers and the gateway: everything a driver author imports stands here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from structlog.typing import FilteringBoundLogger as Logger

from gateway.acts import Act, Command
from gateway.clock import Clock
from gateway.credentials import Credential, throw_away
from gateway.errors import BusRefused, FrameError, LinkClosed, NoAnswer, Refused
from gateway.kinds import FACTS, Kind, Lane, Qualifier
from gateway.model import Observation, Position, Scalar
from gateway.receipt import Receipt
from gateway.secret import Secret
from gateway.untrusted import INTEGER_MAX, clean_text, json_object

__all__ = [
    "FACTS", "INTEGER_MAX", "Act", "Bus", "BusDriver", "BusRefused", "Clock", "Command", "Context", "FrameError", "Kind",
    "Lane", "LinkClosed", "Logger", "Message", "NoAnswer", "Observation", "Order", "Orders", "Position", "Qualifier",
    "Receipt", "Refused", "Scalar", "Secret", "Session", "Settings", "Stream", "StreamDriver", "Table", "Topics",
    "TopicsDriver", "Workbench", "clean_text", "json_object",
]  # fmt: skip


class Settings(BaseModel):
    """Base of a driver's `Settings` and `Profile`: unknown keys are refused, values never change."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Context:
    """What decoding may need, as plain values."""

    settings: Any = None
    """The driver's own `Settings`, checked; None when the module declares none."""
    profiles: Mapping[str, Any] = field(default_factory=dict)
    """The driver's own `Profile` objects by name, checked when the daemon starts."""
    connection: str = ""
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    """The content of the files that `secret_files` names, by the names it gave."""
    credential: Credential = field(default_factory=throw_away, repr=False)
    """The 16 hex digits that may stand in `values["credential"]` for a card number or code, given as the bytes that make it
    the same card. Nothing else of it may be in an observation. The key is the box's; without a box it is thrown away."""


# -- the three link shapes ---------------------------------------------------------------------------------------------


class Stream(Protocol):
    """Bytes in order: TCP listen, TCP connect, serial, memory."""

    peer: str

    async def read(self) -> bytes:
        """Whatever has arrived, at least one byte. Raises LinkClosed at the end."""

    def answer(self, data: bytes, *, after: Receipt) -> None:
        """Send `data` once `after` is on disk, in the order of the calls. A failed commit closes the link instead."""

    async def write(self, data: bytes) -> None:
        """Send now. Raises LinkClosed."""


class Message(Protocol):
    """One MQTT message, unacknowledged until accepted."""

    topic: str
    payload: bytes
    retained: bool
    """State from before our subscription. State, never news."""

    def accept(self, *, after: Receipt) -> None:
        """Give the broker its PUBACK once `after` is on disk. A failed commit leaves it unacknowledged."""


class Topics(Protocol):
    """MQTT topics."""

    def batches(self) -> AsyncIterator[Sequence[Message]]:
        """Everything that has arrived since the last batch, in order, until LinkClosed."""

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        """Publish at QoS 0 once `after` is on disk, in the order of the calls: a receipt that gets lost is asked for by
        the repeat, and a broker that saves every QoS 1 message falls behind a crowd of repeating devices for ever."""

    def send(self, topic: str, payload: bytes, *, expiry_s: int) -> None:
        """Publish at QoS 1, now, past all that waits for commits, and never again. An MQTT 5 broker drops it after `expiry_s`;
        others may hand it out later, so the payload says itself until when it holds. Raises NoAnswer when the broker does not
        take what we send, LinkClosed."""


Table = Literal["coil", "discrete_input", "holding_register", "input_register"]


class Bus(Protocol):
    """Modbus TCP or RTU: one request at a time on the wire."""

    async def read(self, unit: int, table: Table, address: int, count: int) -> Sequence[int]:
        """`count` registers (0..65535) or bits (0/1) from wire address `address`. Raises NoAnswer, BusRefused, LinkClosed."""

    async def write(
        self, unit: int, table: Table, address: int, values: Sequence[int], *, unless: Callable[[], bool] | None = None
    ) -> bool:
        """Write coils or holding registers. `unless` is asked directly before the bytes leave, after all waiting for the
        wire: True, and nothing is sent. Returns whether it was. Raises as `read`."""


# -- the way to the device ---------------------------------------------------------------------------------------------


class Order(Protocol):
    """One command in the hands of a driver. What is said of one that has ended counts for nothing."""

    @property
    def command(self) -> Command: ...

    @property
    def age_s(self) -> float:
        """Since it was asked for: what is left of `command.valid_s` is for protocols that tell the device."""

    def is_late(self) -> bool:
        """Whether its time has run out, which ends it. Ask directly before the bytes leave, with no await between; a late
        order is dropped, never sent."""

    def sent(self) -> None:
        """The bytes have left."""

    def executed(self, evidence: str) -> None:
        """The device itself has shown that it did it: a read-back, its answer, its own report. A write that went through is
        no evidence."""

    def failed(self, reason: str) -> None:
        """The device refused, or cannot be asked."""


class Orders(Protocol):
    """What people ask of the devices of one conversation: `async for order in session.orders`, for ever."""

    def __aiter__(self) -> AsyncIterator[Order]: ...

    def awaiting(self, command_id: str) -> Order | None:
        """The order of that id whose evidence is still waited for, also one that was sent in an earlier conversation or
        before a restart. For protocols whose answers carry the id. Look at its `command.device` before believing it."""


LinkT = TypeVar("LinkT")
LatestKey = tuple[Kind, int | None]


@dataclass(frozen=True, slots=True)
class Session(Generic[LinkT]):
    """One live conversation with one peer."""

    link: LinkT
    report: Callable[[Sequence[Observation]], Awaitable[Receipt]]
    """Hand over what was seen. Returns a receipt at once; waits only when the bound on open receipts is reached."""
    reject: Callable[[bytes, FrameError], None]
    """A frame that is none: counted with its reason, bytes kept within a bound, no answer."""
    heard: Callable[[str], None]
    """Proof of life of a device by its id, without an event."""
    latest: Callable[[str], Awaitable[Mapping[LatestKey, Qualifier]]]
    """The last stored qualifier per (kind, zone) of a device, so that an edge is reported once, also across a restart."""
    orders: Orders
    """Commands for the devices that this conversation was the last to hear. Without `obeys` there are none."""
    context: Context
    clock: Clock
    log: Logger
    deviated: Callable[[str, Sequence[str]], None] = lambda _device, _names: None
    """A frame of this device was accepted although it departs from its protocol: counted by device and name (a closed list)."""
    is_enrolled: Callable[[str], bool] = lambda _: False
    """Whether the register has a device of this id."""
    mute: Callable[[str], None] = lambda _reason: None
    """The line is open and nobody on it answers, for this reason: it counts as down until a device is `heard`."""
    memory: Any = None
    """What the conversations of one connection share: the driver's own `Memory`; None when the module offers none."""


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a driver's tools get (`fangkong tool`): a line of their own, and somebody to talk to."""

    open: Callable[[str, int], AbstractAsyncContextManager[Stream]]
    """A serial port by its path and baud rate, or tcp://HOST:PORT. Raises LinkClosed, ConfigError."""
    clock: Clock
    say: Callable[[str], None]
    secret: Callable[[Path], Secret]
    """The first line of a file of mode 0600. Raises ConfigError."""


# -- the three driver shapes: a driver is a module that satisfies one of these -------------------------------------------
#
# What a module may offer beside its shape:
#   Settings, Profile                                       models of its own (see Settings above)
#   answer(frame, context) -> bytes | None                  stream: what goes back once stored; raises FrameError
#   answer(topic, payload, context) -> tuple[str, bytes] | None    topics: likewise, as topic and payload
#   mistakes(context) -> [(found, expected)]                what only settings and profiles together can show
#   ASKS = True                                             stream: devices only answer, so one that says nothing is a fault
#                                                           and what nobody asked for is no event
#   tools(commands)                                         what helps a person to bring devices into service: argparse commands
#                                                           whose default `tool` is async (arguments, Workbench) -> exit code
#   Memory()                                                made once for each connection, see Session.memory
#   RECEIPTS = True                                         topics: devices repeat until they have our own receipt, so that
#                                                           the broker between need not keep what it has acknowledged
#   secret_files(settings) -> [file]                        keys: one line each, mode 0600, read when the daemon starts
#   deviations(frame, context) -> [name]                    stream: where a good frame departs from its protocol
#   mask(data) -> data                                      of the same length, for recordings: secrets in what was read or sent
#                                                           at once blotted out
#   heard_within_s(device, context) -> float | None         where one device differs from HEARD_WITHIN_S
#   behind(device, context) -> str | None                   the bridge through which alone a device is heard: while that
#                                                           one is lost, nobody knows how the device is
#   obeys(device, context) -> frozenset[Act]                what the device can be told to do. `run` then takes session.orders
#                                                           in a task of its own beside the one that hears


class StreamDriver(Protocol):
    """The shape of a module that speaks over a byte stream."""

    LINK: Literal["stream"]
    HEARD_WITHIN_S: float | None
    """How often a device must be heard unless registry or profile say otherwise; None: it cannot be supervised."""

    def split(self, buffer: bytearray) -> Iterator[bytes]:
        """Cut complete frames off the front of `buffer`, leaving what is incomplete. Pure, bounded."""

    def decode(self, frame: bytes, context: Context) -> Sequence[Observation]:
        """What the frame says. Raises FrameError and nothing else."""

    async def run(self, session: Session[Stream]) -> None:
        """The conversation. Ends by LinkClosed."""


class TopicsDriver(Protocol):
    """The shape of a module that speaks over MQTT."""

    LINK: Literal["topics"]
    HEARD_WITHIN_S: float | None

    def subscriptions(self, context: Context) -> Sequence[str]:
        """Topic filters to subscribe at QoS 1."""

    def decode(self, topic: str, payload: bytes, context: Context) -> Sequence[Observation]:
        """What the message says. Raises FrameError and nothing else."""

    async def run(self, session: Session[Topics]) -> None:
        """The conversation. Ends by LinkClosed."""


class BusDriver(Protocol):
    """The shape of a module that polls a Modbus bus."""

    LINK: Literal["bus"]
    HEARD_WITHIN_S: float | None

    def split(self, buffer: bytearray) -> Iterator[bytes]:
        """Cut captured transactions (request and answer, RTU framing) off a bus capture. Pure, bounded."""

    def decode(self, frame: bytes, context: Context) -> Sequence[Observation]:
        """What one captured transaction says under the profile. Raises FrameError and nothing else."""

    async def run(self, session: Session[Bus]) -> None:
        """Poll for ever. Ends by LinkClosed."""
