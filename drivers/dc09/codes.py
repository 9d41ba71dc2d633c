"""What the codes of Contact ID (SIA DC-05) and of SIA DC-03 mean: two tables beside this file, one row a code.

`number` says what the number behind a code counts: a zone, a user, an area, or something of the panel's own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.driver import Kind, Qualifier


class Meaning(NamedTuple):
    """One code."""

    kind: Kind
    number: str
    words: str
    qualifier: Qualifier = Qualifier.NEW
    """SIA has a code of its own for an end; Contact ID says it beside the code."""


UNNAMED = Meaning(Kind.UNKNOWN, "zone", "")
"""A code that no table has may be an alarm: it travels with the alarms until a person has named it."""


def _table(name: str) -> Mapping[str, Meaning]:
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return {
            row["code"]: Meaning(Kind(row["kind"]), row["number"], row["zh"], Qualifier(row.get("qualifier", "new")))
            for row in csv.DictReader(file)
        }


CONTACT_ID = _table("contact_id.csv")
SIA = _table("sia.csv")
