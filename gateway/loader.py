"""Drivers and forwarders by name: the file's name is the registration, a dotted path names one from elsewhere."""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from gateway.config import Loc, check_model, line_of, read_secret, read_toml
from gateway.errors import ConfigError, Problem
from gateway.secret import Secret

PARTS = {"drivers": ("LINK", "HEARD_WITHIN_S", "decode", "run"), "gateway.forwarders": ("wants", "check", "run")}
"""What a module of each package must offer (`gateway.driver`, `gateway.forwarders.Forwarder`)."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def names_in(package: str) -> list[str]:
    """The modules a package offers."""
    found = importlib.import_module(package)
    return sorted(info.name for info in pkgutil.iter_modules(found.__path__) if not info.name.startswith("_"))


def load_module(
    package: str, name: str, *, file: str = "command line", line: int | None = None, others: Iterable[str] = ()
) -> ModuleType:
    """`acme` is `<package>.acme`, `vendor.panel9` is itself. Raises ConfigError naming the nearest spelling, `others`
    among them."""
    target = name if "." in name else f"{package}.{name}"
    known = names_in(package)
    near = difflib.get_close_matches(name, [*known, *others], n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"? 是否应为 "{near[0]}"?' if near else "没有这个模块"

    def wrong(found: str, expected: str, hint: str = "模块不可用") -> ConfigError:
        return ConfigError([Problem(file, line, package.rstrip("s"), f'"{name}" {found}', expected, hint)])

    if not (name in known or _DOTTED.fullmatch(name)):
        raise wrong("is not known", "one of " + ", ".join(known), hint)
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is None or not (target == error.name or target.startswith(error.name + ".")):
            raise wrong(f"needs {error.name}, which is not installed", "a module whose packages are there") from error
        raise wrong("is not known", "one of " + ", ".join(known), hint) from error
    if lacking := _lacking(module, package):
        raise wrong(f"lacks {', '.join(lacking)}", f"a module with {', '.join(PARTS[package])}", hint)
    return module


def load_file(path: Path) -> ModuleType:
    """A driver that is nothing but a file, for trying it. Raises ConfigError; what the file itself raises passes."""

    def wrong(found: str, expected: str) -> ConfigError:
        return ConfigError([Problem(str(path), None, "driver", found, expected, "模块不可用")])

    if not path.is_file():
        raise wrong("is not there", "a Python file")
    name = f"tried.{path.stem}"  # no module of the program or of Python has it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    if lacking := _lacking(module, "drivers"):
        raise wrong(f"lacks {', '.join(lacking)}", f"a module with {', '.join(PARTS['drivers'])}")
    return module


def _lacking(module: ModuleType, package: str) -> list[str]:
    return [part for part in PARTS[package] if not hasattr(module, part)]


def load_driver(
    name: str, own_profiles: Path | None = None, *, file: str = "command line", line: int | None = None
) -> tuple[ModuleType, str | None]:
    """The driver of that name; or, where a device profile has it, the profile's driver and the profile. Raises ConfigError."""
    files = {
        path.stem: path for folder in (shipped_profiles(), own_profiles) if folder for path in folder.glob("*.toml")
    }
    if name not in files or name in names_in("drivers"):
        return load_module("drivers", name, file=file, line=line, others=files), None
    content, lines = read_toml(files[name])
    driver = str(content.get("driver"))
    return load_module("drivers", driver, file=str(files[name]), line=line_of(lines, ("driver",))), name


def load_settings(
    module: ModuleType, content: Mapping[str, Any], *, file: str, lines: Mapping[Loc, int], at: Loc
) -> Any:
    """The module's own `Settings`, checked; None when it declares none. Raises ConfigError."""
    model = getattr(module, "Settings", None)
    if model is None:
        if content:
            key = ".".join(map(str, at))
            problem = Problem(
                file, line_of(lines, at), key, "settings given", f"none: {module.__name__} takes none", "不需要设置"
            )
            raise ConfigError([problem])
        return None
    settings, problems = check_model(model, content, file=file, lines=lines, at=at)
    if problems:
        raise ConfigError(problems)
    return settings


def load_secrets(module: ModuleType, settings: Any, base: Path) -> dict[str, Secret]:
    """The content of the files that a driver's settings name. Raises ConfigError with all that cannot be used."""
    problems: list[Problem] = []
    secrets: dict[str, Secret] = {}
    for file in module.secret_files(settings) if hasattr(module, "secret_files") else ():
        try:
            secrets[file] = read_secret(base / file)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return secrets


def shipped_profiles() -> Path:
    """The folder of the profiles that come with the program."""
    return Path(str(importlib.import_module("drivers").__path__[0])) / "profiles"


def load_profiles(module: ModuleType, own_dir: Path | None = None) -> dict[str, BaseModel]:
    """Every profile of this driver, shipped ones first and own ones over them. Raises ConfigError with all mistakes."""
    model = getattr(module, "Profile", None)
    if model is None:
        return {}
    driver = module.__name__.removeprefix("drivers.")
    profiles: dict[str, BaseModel] = {}
    problems: list[Problem] = []
    for folder in (shipped_profiles(), own_dir):
        for path in sorted(folder.glob("*.toml")) if folder else ():
            content, lines = read_toml(path)
            if content.pop("driver", None) != driver:
                continue
            profile, mistakes = check_model(model, content, file=str(path), lines=lines)
            problems += mistakes
            if profile is not None:
                profiles[path.stem] = profile
    if problems:
        raise ConfigError(problems)
    return profiles
