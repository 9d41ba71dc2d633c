"""No schema holds anything about a person that is not declared."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

import gateway.api
from gateway import audit
from gateway.clock import RealClock
from gateway.personal import DECLARED, FORBIDDEN, OWN, matter_of
from gateway.registry import Registry
from gateway.store.sqlite import SqliteStore

VECTORS = Path(__file__).parents[1] / "vectors"
MODELS = ("gateway.model", "gateway.acts", "gateway.access", "gateway.audit")


async def tables(folder: Path) -> list[tuple[str, str]]:
    """Every column of every table a gateway makes."""
    await (await SqliteStore.open(folder, RealClock())).close()
    await (await Registry.open(folder / "registry.db")).close()
    with closing(sqlite3.connect(folder / audit.FILE)) as made:
        made.execute(audit._SCHEMA)
    found = []
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found += [(name, row[1]) for name in names for row in db.execute(f'PRAGMA table_info("{name}")')]
    return found


def values() -> Iterator[tuple[str, str]]:
    """Every type of object that travels inside, by its fields."""
    for module in map(importlib.import_module, MODELS):
        for name, found in vars(module).items():
            if inspect.isclass(found) and found.__module__ == module.__name__ and is_dataclass(found):
                yield from ((name.lower(), field.name) for field in fields(found))


def api() -> Iterator[tuple[str, str]]:
    """Every model of the API."""
    for info in pkgutil.walk_packages(gateway.api.__path__, "gateway.api."):
        module = importlib.import_module(info.name)
        for name, found in vars(module).items():
            if inspect.isclass(found) and found.__module__ == module.__name__ and issubclass(found, BaseModel):
                yield from ((name.lower().removesuffix("view"), field) for field in found.model_fields)


def told() -> Iterator[tuple[str, str]]:
    """Every value that a driver is known to put beside an observation."""
    for path in sorted(VECTORS.glob("*.toml")):
        for vector in tomllib.loads(path.read_text(encoding="utf-8"))["vector"]:
            expected = vector.get("observation", vector)  # a vector that is one observation says it itself
            for seen in expected if isinstance(expected, list) else [expected]:
                yield from (("values", key) for key in seen.get("values", {}))


def is_forbidden(name: str) -> bool:
    padded = f"_{name}_"
    return any(f"_{word}_" in padded for word in FORBIDDEN)


async def test_every_field_of_every_schema_is_declared(tmp_path: Path) -> None:
    found = {*await tables(tmp_path), *values(), *api(), *told()}

    undeclared = sorted(f"{schema}.{field}" for schema, field in found if matter_of(schema, field) is None)
    assert not undeclared, "say in gateway/personal.py what these are about"


async def test_no_field_is_about_who_somebody_is(tmp_path: Path) -> None:
    found = {*await tables(tmp_path), *values(), *api(), *told()}

    assert not [f"{schema}.{field}" for schema, field in found if is_forbidden(field)]
    assert not [name for name in (*DECLARED, *(name.partition(".")[2] for name in OWN)) if is_forbidden(name)]


@pytest.mark.parametrize("name", ["resident", "card_number", "holder", "face_id", "visitor_count"])
def test_what_is_about_a_person_is_recognised_by_its_name(name: str) -> None:
    assert is_forbidden(name)
    assert matter_of("event", name) is None


def test_nothing_is_declared_twice() -> None:
    assert not [name for name in OWN if DECLARED.get(name.partition(".")[2]) is OWN[name]]
