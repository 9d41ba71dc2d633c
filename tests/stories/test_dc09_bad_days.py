"""The forwarder and the simulated centre, two programs that share no code, through a bad day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.model import Kind, Lane, Qualifier
from simulators.police_centre import PoliceCentre
from tests.conftest import JumpingClock
from tests.forwarding import Rig, open_rig

KEY = b"GATEKEY-AES256-00000000000000001"[:32]


class CentreClock:
    """The same hand-made time in the simulators' unit: seconds since 1970."""

    def __init__(self, clock: JumpingClock) -> None:
        self._clock = clock
        self.monotonic, self.sleep = clock.monotonic, clock.sleep

    def now(self) -> float:
        return self._clock.now().timestamp()


async def _deliver(rig: Rig, centre: PoliceCentre, count: int, **settings: Any) -> None:
    async with rig.forwarding(centre.port, **settings):
        await rig.until(lambda: sum(rig.store.state.stored.values()) == count)
        await rig.until_states(accepted=count, pace_s=0.2)


@pytest.mark.row("F2")
@pytest.mark.row("F3")
@pytest.mark.parametrize("encrypted", [False, True])
async def test_every_event_once_and_in_order_through_a_bad_day_and_a_restart(
    tmp_path: Path, jumping_clock: JumpingClock, encrypted: bool
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"hex:{KEY.hex()}")
    key_file.chmod(0o600)
    settings: dict[str, Any] = {"key_file": key_file} if encrypted else {}
    async with (
        PoliceCentre(
            keys=dict.fromkeys(("A00", "A01", "A02", "0B0C"), KEY), clock=CentreClock(jumping_clock)
        ) as centre,
        open_rig(tmp_path / "var", jumping_clock) as rig,
    ):
        kinds = [(Kind.BURGLARY, Lane.ALARM), (Kind.PANIC, Lane.LIFE), (Kind.AC_LOSS, Lane.FAULT)]
        for number in range(1, 31):
            kind, lane = kinds[number % 3]
            for qualifier in (Qualifier.NEW, Qualifier.RESTORE):
                account = f"A0{number % 3}"
                await rig.append(rig.event(number, kind=kind, lane=lane, qualifier=qualifier, account=account))
        for misbehaviour, share in {"drop_before_ack": 0.25, "silence": 0.2, "wrong_sequence": 0.1}.items():
            centre.misbehave(misbehaviour, share=share, seed=7)
        centre.misbehave("double_ack", share=0.2, seed=8)
        async with rig.forwarding(centre.port, **settings):
            await rig.until(lambda: centre.audit.accepted >= 20, pace_s=0.2)
        assert centre.audit.accepted < 60  # the stop came in the middle
        centre.behave()
        centre.misbehave("clock", seconds=90)
        await _deliver(rig, centre, 60, **settings)
        rows = [row for row in centre.received if row.token == "ADM-CID"]
        summary = centre.audit.summary()

    assert summary["accepted"] == 60
    assert summary["wire_repeats"] > 0
    assert (centre.answers["NAK"] > 0) is encrypted
    assert summary["new_key_duplicates"] == summary["reused_keys"] == summary["forgotten"] == 0
    assert {deviation for row in rows for deviation in row.deviations} == set()
    assert {row.encrypted for row in rows} == {encrypted}
    first_seen = list(dict.fromkeys((row.zone, row.qualifier) for row in rows))
    for number in range(1, 31):
        zone = f"{number:03d}"
        new, restore = sorted(pair for pair in first_seen if pair[0] == zone)
        assert first_seen.index(new) < first_seen.index(restore)
