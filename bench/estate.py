"""The estate of a measurement: who lives where, and the alarms its devices raise, packed for the wire beforehand."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from bench import wire

POINTS_MAX = 1000
"""Numbers 0 to 999 under one account (Contact ID has three digits)."""

PAIRS = (
    ("burglary", "卧室门磁"), ("perimeter", "东围墙三段"), ("open_close", "值班室键盘"), ("tamper", "楼道探测器"),
    ("ac_loss", "主机电源"), ("smoke", "地下车库烟感"), ("interior", "客厅红外"), ("door_forced", "单元门"),
    ("rf_batt_low", "窗磁电池"), ("water", "水泵房"), ("zone_24h", "配电间"), ("gas", "厨房"),
)  # fmt: skip
"""What a device reports, one after the other, each followed by its end: all lanes that a police desk hears of. No kind
twice, so that no device repeats itself within the gateway's storm window, where repeats are counted and not sent."""
PRESS = ("panic", "大门按钮")
PRESS_EVERY = 10
"""One event in so many is a panic button, which has no end."""


@dataclass(frozen=True, slots=True)
class Estate:
    """`devices` over `accounts`; device i is point i // accounts of account i % accounts."""

    devices: int
    accounts: int

    def __post_init__(self) -> None:
        assert self.devices <= self.accounts * POINTS_MAX, "more devices than points"

    def device(self, index: int) -> str:
        return f"d{index:05d}"

    def account(self, index: int) -> str:
        return f"{0xA000 + index % self.accounts:04X}"

    def number(self, index: int) -> int:
        return index // self.accounts


@dataclass(slots=True)
class Devices:
    """What the devices of an estate have said so far. The same seed says the same."""

    estate: Estate
    random: Random
    _said: Counter[int] = field(default_factory=Counter)
    _turns: Counter[int] = field(default_factory=Counter)
    """Beginnings and ends a device has reported."""

    def publishes(self, count: int, *, first: int, session: str, packet_id: int, is_5: bool) -> Iterator[bytes]:
        """MQTT packets of `count` events; event n carries the word `e<first + n>` in its text, which reaches the desk."""
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for n in range(count):
            index = self.random.randrange(self.estate.devices)
            self._said[index] += 1
            said = self._said[index]
            if n % PRESS_EVERY == 0:
                (kind, text), qualifier = PRESS, "new"
            else:
                turn = self._turns[index]
                self._turns[index] += 1
                kind, text = PAIRS[(index + turn // 2) % len(PAIRS)]
                qualifier = "restore" if turn % 2 else "new"
            device = self.estate.device(index)
            message = {
                "v": 1, "device": device, "session": session, "seq": said, "kind": kind, "qualifier": qualifier,
                "zone": 1, "at": at, "text": f"{text} e{first + n:09d}",
                "values": {"battery_pct": 60 + said % 40, "rssi_dbm": -50 - index % 40}, "test": False,
            }  # fmt: skip
            body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()[:-1]
            payload = b'%b,"crc":"%08x"}' % (body, zlib.crc32(body))
            topic = b"fangkong/v1/%b/event" % device.encode()
            yield wire.publish(topic, payload, (packet_id + n - 1) % 65535 + 1, is_5=is_5)
