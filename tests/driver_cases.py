"""The drivers under test and their vectors, and a conversation whose every receipt the test holds in its hand."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from gateway.clock import Clock
from gateway.credentials import hashed
from gateway.driver import (
    Command,
    Context,
    FrameError,
    LatestKey,
    NoAnswer,
    Observation,
    Qualifier,
    Receipt,
    Secret,
    Session,
)
from gateway.errors import LinkClosed, StoreError
from gateway.links.stream import StreamLink
from gateway.loader import load_module, load_profiles, load_settings, names_in

VECTORS = Path(__file__).parent / "vectors"
OBSERVED = ("device", "kind", "qualifier", "zone", "at", "code", "text", "test", "repeat_key", "values")
CREDENTIAL = partial(hashed, bytes(32))
"""Vectors state the hash of a credential under this key: `hmac.digest(bytes(32), credential, "sha256").hex()[:16]`."""

EXPECTED = (*OBSERVED, "latitude", "longitude", "speed_kmh")
KEYS = {"origin", "bytes", "topic", "payload", "profile", "settings", "error", "observations", "observation", "answer",
        "secrets", "keyed"}  # fmt: skip
"""`keyed`: the answer depends on the key of the vectors, so that another process gives another."""


@dataclass(frozen=True)
class Vector:
    """One row of tests/vectors/<driver>.toml."""

    number: int
    row: Mapping[str, Any]
    context: Context

    @property
    def is_error(self) -> bool:
        return self.row.get("error") is True

    @property
    def payload(self) -> bytes:
        """The bytes that hostile variants are made of."""
        if "bytes" in self.row:
            return bytes.fromhex(self.row["bytes"])
        payload: str = self.row["payload"]
        return payload.encode()


@dataclass(frozen=True)
class Driver:
    """A module and what stands beside it."""

    name: str
    module: ModuleType
    vectors: Sequence[Vector]

    @property
    def link(self) -> str:
        link: str = self.module.LINK
        return link


def drivers(wanted: Sequence[str] = ()) -> list[Driver]:
    """Those wanted, one from elsewhere by its dotted path; without any, every driver in the tree."""
    return [driver(name) for name in wanted or (n for n in names_in("drivers") if n != "profiles")]


def vectors_of(name: str, module: ModuleType) -> Path:
    """Those of a driver from elsewhere stand beside it."""
    *outside, last = name.split(".")
    folder = Path(str(module.__file__)).parent if outside else VECTORS
    return folder / f"{last}.toml"


def driver(name: str) -> Driver:
    module = load_module("drivers", name)
    own = VECTORS / "profiles"
    profiles = load_profiles(module, own if own.is_dir() else None)
    path = vectors_of(name, module)
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["vector"] if path.is_file() else []
    vectors = []
    for number, row in enumerate(rows, 1):
        given = dict(row.get("settings", {}))
        if "profile" in row:
            assert row["profile"] in profiles, f"{path.name} vector {number}: no profile {row['profile']!r}"
            if "profile" in getattr(module.__dict__.get("Settings"), "model_fields", {}):
                given["profile"] = row["profile"]
        settings = load_settings(module, given, file=str(path), lines={}, at=("vector", number, "settings"))
        context = Context(
            settings=settings,
            profiles=profiles,
            connection="test",
            credential=CREDENTIAL,
            secrets={name: Secret(value) for name, value in row.get("secrets", {}).items()},
        )
        vectors.append(Vector(number, row, context))
    return Driver(name, module, vectors)


# -- what a driver says ------------------------------------------------------------------------------------------------


def facts(observation: Observation) -> tuple[Any, ...]:
    """Everything but the raw bytes, comparable."""
    named = tuple(getattr(observation, name) for name in OBSERVED if name != "values")
    return (*named, tuple(sorted(observation.values.items())), observation.position)


def said(driver: Driver, vector: Vector, payload: bytes) -> tuple[list[tuple[Any, ...]], int]:
    """The facts of everything in `payload`, and how many frames were refused. Lets nothing but FrameError pass."""
    if driver.link == "topics":
        try:
            seen = driver.module.decode(vector.row["topic"], payload, vector.context)
        except FrameError:
            return [], 1
        return [facts(one) for one in seen], 0
    return heard_in_pieces(driver, vector, [payload])


def heard_in_pieces(
    driver: Driver, vector: Vector, pieces: Sequence[bytes], buffer: bytearray | None = None
) -> tuple[list[tuple[Any, ...]], int]:
    """The same over a stream that arrives in pieces; `buffer` shows what is left."""
    buffer = bytearray() if buffer is None else buffer
    seen: list[tuple[Any, ...]] = []
    refused = 0
    for piece in pieces:
        buffer += piece
        for frame in driver.module.split(buffer):
            try:
                seen += [facts(one) for one in driver.module.decode(frame, vector.context)]
            except FrameError:
                refused += 1
    return seen, refused


def expected_observations(vector: Vector) -> list[Mapping[str, Any]]:
    """The tables of what must be seen, at least of the first observation."""
    if "observation" in vector.row:
        listed: list[Mapping[str, Any]] = vector.row["observation"]
        return listed
    flat = {key: vector.row[key] for key in EXPECTED if key in vector.row}
    return [flat] if flat else []


def differences(seen: Observation, expected: Mapping[str, Any]) -> list[str]:
    """Where an observation is not what the vector says; only given keys count, wholly."""
    found = []
    for key, given in expected.items():
        wanted = datetime.fromisoformat(given) if key == "at" and isinstance(given, str) else given
        is_position = key in ("latitude", "longitude", "speed_kmh")
        value: Any = getattr(seen.position, key, None) if is_position else getattr(seen, key)
        if key == "values":
            value = dict(value)
        if value != wanted:
            found.append(f"{key}: {value!r}, expected {wanted!r}")
    return found


def answer_of(driver: Driver, vector: Vector) -> str | None:
    """What goes back, as the vector writes it: hex, or "topic payload"."""
    if driver.link == "topics":
        reply = driver.module.answer(vector.row["topic"], vector.payload, vector.context)
        return None if reply is None else f"{reply[0]} {reply[1].decode()}"
    joined = b"".join(
        driver.module.answer(f, vector.context) or b"" for f in driver.module.split(bytearray(vector.payload))
    )
    return joined.hex() or None


def same_answer(one: str | None, other: str | None) -> bool:
    def plain(text: str | None) -> str | None:
        return re.sub(r"\s", "", text).lower() if text and re.fullmatch(r"[0-9A-Fa-f\s]*", text) else text

    return plain(one) == plain(other)


@asynccontextmanager
async def closing(opening: Awaitable[StreamLink]) -> AsyncIterator[StreamLink]:
    """A link for the length of a block."""
    link = await opening
    try:
        yield link
    finally:
        await link.close()


# -- orders ------------------------------------------------------------------------------------------------------------


@dataclass
class FakeOrder:
    """A `driver.Order` that writes down what is said of it."""

    command: Command
    is_overdue: bool = False
    age_s: float = 0.0
    steps: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at every step."""

    def is_late(self) -> bool:
        return self.is_overdue

    def sent(self) -> None:
        self._step("sent")

    def executed(self, evidence: str) -> None:
        self._step("executed", evidence)

    def failed(self, reason: str) -> None:
        self._step("failed", reason)

    def _step(self, step: str, detail: str = "") -> None:
        self.steps.append((step, detail))
        self.changed.set()


class FakeOrders:
    """A `driver.Orders`: what the test gives, and nothing else, for ever."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[FakeOrder] = asyncio.Queue()
        self._given: dict[str, FakeOrder] = {}

    def give(self, order: FakeOrder) -> FakeOrder:
        self._given[order.command.id] = order
        self._waiting.put_nowait(order)
        return order

    def __aiter__(self) -> AsyncIterator[FakeOrder]:
        return self

    async def __anext__(self) -> FakeOrder:
        return await self._waiting.get()

    def awaiting(self, command_id: str) -> FakeOrder | None:
        return self._given.get(command_id)


# -- a conversation ----------------------------------------------------------------------------------------------------


@dataclass
class Desk:
    """Stands for everything behind `report`: remembers what came and holds the receipts until the test settles them."""

    reported: list[Observation] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    orders: FakeOrders = field(default_factory=FakeOrders)
    deviations: list[tuple[str, str]] = field(default_factory=list)
    memory: Any = None
    is_prompt: bool = False
    """Settle at once, as a very quick disk would."""
    is_disk_full: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at every report."""

    async def report(self, observations: Sequence[Observation]) -> Receipt:
        self.reported += observations
        self.changed.set()
        receipt = Receipt()
        if self.is_prompt:
            receipt.settle()
        else:
            self.receipts.append(receipt)
        return receipt

    def settle(self) -> None:
        """The commit."""
        self.log.append("stored")
        receipts, self.receipts = self.receipts, []
        for receipt in receipts:
            receipt.settle()

    def fail(self) -> None:
        """The commit that does not happen."""
        self.is_disk_full = True
        receipts, self.receipts = self.receipts, []
        for receipt in receipts:
            receipt.settle(StoreError("disk full"))

    async def latest(self, device: str) -> Mapping[LatestKey, Qualifier]:
        stored: dict[LatestKey, Qualifier] = {}
        for seen in self.reported:
            if seen.device == device:
                stored[seen.kind, seen.zone] = seen.qualifier
        return stored

    def session(self, link: Any, context: Context, clock: Clock) -> Session[Any]:
        return Session(
            link=link,
            report=self.report,
            reject=lambda frame, _: self.rejected.append(frame),
            heard=self.heard.append,
            latest=self.latest,
            orders=self.orders,
            context=context,
            clock=clock,
            log=structlog.get_logger(),
            deviated=lambda device, names: self.deviations.extend((device, name) for name in names),
            memory=self.memory,
        )


@dataclass
class FakeMessage:
    """A message whose acceptance is written down."""

    topic: str
    payload: bytes
    log: list[str]
    retained: bool = False
    is_accepted: bool = False

    def accept(self, *, after: Receipt) -> None:
        after.when_settled(self._accept)

    def _accept(self, receipt: Receipt) -> None:
        if receipt.error is None:
            self.log.append("answered")
            self.is_accepted = True


class FakeTopics:
    """A broker that delivers these messages at once and is there until `end`."""

    def __init__(self, messages: Sequence[FakeMessage], log: list[str]) -> None:
        self._messages = messages
        self._log = log
        self._ended = asyncio.Event()
        self.published: list[tuple[str, bytes]] = []
        self.sent: list[tuple[str, bytes, int]] = []

    def end(self) -> None:
        self._ended.set()

    async def batches(self) -> AsyncIterator[Sequence[FakeMessage]]:
        yield self._messages
        await self._ended.wait()
        raise LinkClosed("the broker is gone")

    def publish(self, topic: str, payload: bytes, *, after: Receipt) -> None:
        def send(receipt: Receipt) -> None:
            if receipt.error is None:
                self._log.append("answered")
                self.published.append((topic, payload))

        after.when_settled(send)

    def send(self, topic: str, payload: bytes, *, expiry_s: int) -> None:
        self.sent.append((topic, payload, expiry_s))


class DeadBus:
    """A bus on which no unit answers, and which is pulled out after some requests."""

    def __init__(self, requests_max: int) -> None:
        self.requests = 0
        self._requests_max = requests_max

    async def read(self, unit: int, table: str, address: int, count: int) -> Sequence[int]:
        self.requests += 1
        if self.requests >= self._requests_max:
            raise LinkClosed("the bus is gone")
        raise NoAnswer("no unit answers")

    async def write(
        self, unit: int, table: str, address: int, values: Sequence[int], *, unless: Callable[[], bool] | None = None
    ) -> bool:
        await self.read(unit, table, address, 0)
        return True


def variants_of_bits(payload: bytes) -> Iterator[bytes]:
    """`payload` with each bit flipped in turn."""
    for index in range(len(payload)):
        for bit in range(8):
            spoiled = bytearray(payload)
            spoiled[index] ^= 1 << bit
            yield bytes(spoiled)
