"""The demo's audit finds what it must find: it is the judge, so it is tried first."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.demo_audit import Audit, balance


def device(state: str, *, simulator: str = "alarm_json", what: str = "panic", restore: bool = False) -> dict[str, Any]:
    return {"state": state, "simulator": simulator, "device": "a001", "what": what, "restore": restore, "zone": None}


def centre(
    event: str = "e1", key: str = "A101/0001/H", *, code: str = "120", qualifier: int = 1, answer: str = "ACK"
) -> dict[str, Any]:
    return {
        "token": "ADM-CID",
        "id": event,
        "key": key,
        "account": "A101",
        "zone": "001",
        "code": code,
        "qualifier": qualifier,
        "answer": answer,
    }


RAISED, TOLD = device("raised"), device("acknowledged")
TOLD_OF_DOOR = device("acknowledged", what="door_open")


@pytest.mark.parametrize(
    ("ledger", "record", "found"),
    [
        pytest.param([RAISED, TOLD], [centre()], Audit(1, 1, 0, 0), id="all is well"),
        pytest.param([RAISED, TOLD], [], Audit(1, 0, 1, 0), id="acknowledged and not there: lost"),
        pytest.param([RAISED], [], Audit(1, 0, 0, 0), id="raised, never acknowledged: not lost, the device repeats"),
        pytest.param([RAISED, TOLD], [centre(answer="NAK")], Audit(1, 0, 1, 0), id="refused is not delivered"),
        pytest.param([RAISED, TOLD], [centre(), centre()], Audit(1, 1, 0, 0), id="a copy under the same key is no duplicate"),
        pytest.param([RAISED, TOLD], [centre(), centre(key="A101/0002/H")], Audit(1, 1, 0, 1), id="the same event under a new key"),
        pytest.param([RAISED, TOLD], [centre(), centre("e2", "A101/0002/H")], Audit(1, 1, 0, 1), id="one press, two events"),
        pytest.param([RAISED, TOLD] * 2, [centre(), centre("e2", "A101/0002/H")], Audit(2, 2, 0, 0), id="two presses, two events"),
        pytest.param([RAISED, TOLD] * 2, [centre()], Audit(2, 1, 1, 0), id="two presses, one event"),
        pytest.param([device("raised", simulator="modbus_points", what="perimeter")], [], Audit(1, 0, 1, 0), id="a lasting state not seen"),
        pytest.param([device("raised", simulator="nmea", what="antenna_cut")], [], Audit(1, 0, 1, 0), id="a receiver is never told"),
        pytest.param([device("raised", what="door_open"), TOLD_OF_DOOR], [], Audit(0, 0, 0, 0), id="a door that opens is nothing for 110"),
        pytest.param([RAISED, TOLD], [centre(), centre("e9", "x", code="381")], Audit(1, 1, 0, 0), id="what the gateway says itself"),
    ],
)  # fmt: skip
def test_balance(ledger: list[dict[str, Any]], record: list[dict[str, Any]], found: Audit) -> None:
    audit = balance(ledger, record, lambda device, zone: ("A101", 1))

    assert Audit(audit.alarms, audit.delivered, audit.lost, audit.duplicates) == found


def test_each_family_has_its_own_count() -> None:
    ledger = [
        RAISED,
        TOLD,
        device("raised", simulator="dc09", what="burglary"),
        device("raised", what="panic", restore=True),
    ]

    assert balance(ledger, [centre()], lambda device, zone: ("A101", 1)).families == {
        "alarm_json": (1, 1),
        "dc09": (1, 0),
    }
