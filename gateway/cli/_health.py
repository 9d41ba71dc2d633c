"""`fangkong check health`: every check of this box at once, of what lies on its disk and of what runs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.cli._daemon import ask, is_running
from gateway.cli._finding import Finding
from gateway.cli.doctor import CONNECT_WITHIN_S, examine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from gateway.plan import Plan
    from gateway.registry import Registry

ANSWER_WITHIN_S = 10.0
LAG_MAX_S = 300.0
"""A state that is five minutes old is still one of this evening."""
BACKLOG_MAX_S = 300.0
"""Older than this and 110 hears too late."""
EXPIRES_SOON = timedelta(days=30)
"""To order a certificate and to bring it to the box."""
STORE_FULL_SHARE = 0.95
"""Of its budget; beyond it old records go."""
NAMED_MAX = 20
"""Sites and devices that are named; of the rest the number is told."""
IN_USE = ("installed", "accepted", "in_service")

Series = list[tuple["Mapping[str, str]", float]]


def everything(plan: Plan) -> Iterator[Finding]:
    """All there is to say."""
    running = is_running(plan.data_dir)
    yield Finding("site file", "ok", str(plan.path))
    if running:
        yield Finding("gateway", "ok", "running on this data directory")
    else:
        yield Finding("gateway", "failed", "not running; what follows is as it was left", "start it 服务未运行,请启动")
    yield from examine(plan, running=running)
    yield from _certificates(plan)
    if running:
        yield from _asked(plan)
    yield from _backlog(plan)
    yield from _ledger(plan)


# -- what runs ---------------------------------------------------------------------------------------------------------


def _asked(plan: Plan) -> Iterator[Finding]:
    """What the running gateway says of itself."""
    import urllib.error
    from http.client import HTTPException

    from prometheus_client.parser import text_string_to_metric_families

    from gateway.errors import ConfigError

    try:
        with ask(plan.site, plan.base, "/metrics", timeout_s=ANSWER_WITHIN_S) as answer:
            text = answer.read().decode()
        try:
            with ask(plan.site, plan.base, "/readyz", timeout_s=ANSWER_WITHIN_S) as answer:
                ready = json.load(answer)
        except urllib.error.HTTPError as not_ready:
            with not_ready:
                ready = json.load(not_ready)
        complaints: Mapping[str, str] = ready["failing"]
        families = list(text_string_to_metric_families(text))
    except (OSError, HTTPException, ValueError, KeyError, ConfigError) as error:
        hint = "is this its site file, with its [api] token_file? 请检查接口地址与令牌"
        yield Finding("answers of the gateway", "failed", str(error), hint)
        return
    found: dict[str, Series] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix("fangkong_"), []).append((sample.labels, sample.value))
    yield from judged(complaints, found)


def judged(complaints: Mapping[str, str], found: Mapping[str, Series]) -> Iterator[Finding]:
    """Findings from what is not ready, and from the metrics by name."""
    for name, complaint in complaints.items():
        yield Finding(name, "failed", complaint, "not ready until this is mended 未就绪")
    for name, what, hint in (
        ("store_up", "event log", "see the log: disk full or failing? 事件存储异常"),
        ("audit_ok", "audit record", "fangkong audit verify 审计记录异常"),
        ("supervision_up", "recorder of states", "see the log: is registry.db writable? 设备状态无法记录"),
        ("coverage_up", "coverage", "see the log: its figures stand still 覆盖率停止更新"),
    ):
        is_up = all(value for _, value in found.get(name, ()))
        yield Finding(what, "ok", "in order") if is_up else Finding(what, "failed", "not in order", hint)
    yield _lag(max((value for _, value in found.get("supervision_lag_seconds", ())), default=0.0))
    yield _room(_sum(found, "store_bytes"), _sum(found, "store_budget_bytes"), _sum(found, "shed_events_total"))
    for labels, value in found.get("connection_up", ()):
        up, hint = ("up", "") if value else ("down", "cable, address, power of the other end 线路中断")
        yield Finding(f"line {labels['connection']}", "ok" if value else "failed", up, hint)
    for labels, value in found.get("destination_up", ()):
        up, hint = ("answers", "") if value else ("does not answer", "address, cable, firewall 接收中心无应答")
        yield Finding(f"destination {labels['destination']}", "ok" if value else "failed", up, hint)
    for labels, value in found.get("outbox_dead", ()):
        if value:
            hint = "look at each, pass it on by hand 有事件无法送达,请人工处理"
            yield Finding(f"set aside {labels['destination']}", "warning", f"{value:.0f} events", hint)


def _sum(found: Mapping[str, Series], name: str) -> float:
    return sum(value for _, value in found.get(name, ()))


def _lag(lag_s: float) -> Finding:
    if lag_s > LAG_MAX_S:
        hint = "it catches up by itself; if it does not, the disk is too slow 设备状态记录滞后"
        return Finding("recorder lag", "warning", f"{lag_s:.0f} s behind the event log", hint)
    return Finding("recorder lag", "ok", f"{lag_s:.0f} s")


def _room(used: float, budget: float, shed: float) -> Finding:
    said = f"{used / (1 << 20):.0f} of {budget / (1 << 20):.0f} MiB, {shed:.0f} events removed since the start"
    if shed or used > STORE_FULL_SHARE * budget:
        hint = "raise [store] budget_mb, or find the flood 事件存储空间不足"
        return Finding("room for events", "warning", said, hint)
    return Finding("room for events", "ok", said)


# -- what lies on the disk ---------------------------------------------------------------------------------------------


def _backlog(plan: Plan) -> Iterator[Finding]:
    import sqlite3

    from gateway.clock import RealClock
    from gateway.store.beside import read_oldest

    try:
        oldest = read_oldest(plan.data_dir / "events.db")
    except sqlite3.Error:
        return  # the log as a whole has been judged before
    for name in [section.name for section in plan.site.destination]:
        at = oldest.get(name)
        age_s = max(0.0, (RealClock().now() - at).total_seconds()) if at else 0.0
        said = f"the oldest event waits {age_s:.0f} s" if at else "nothing waits"
        if age_s > BACKLOG_MAX_S:
            yield Finding(f"backlog {name}", "failed", said, "is the receiver there? 事件积压,请检查接收中心")
        else:
            yield Finding(f"backlog {name}", "ok", said)


def _ledger(plan: Plan) -> Iterator[Finding]:
    from gateway.errors import ConfigError

    path = plan.data_dir / "registry.db"
    if not path.exists():
        yield Finding("ledger", "warning", "none yet", "fangkong inventory import 尚无台账")
        return
    try:
        yield from asyncio.run(_read(plan))
    except ConfigError as error:
        hint = "a file of this program, readable by this user 台账无法读取"
        yield from (Finding("ledger", "failed", str(each), each.hint or hint) for each in error.problems)


async def _read(plan: Plan) -> Sequence[Finding]:
    from gateway.clock import RealClock
    from gateway.registry import Registry

    registry = await Registry.open(plan.data_dir / "registry.db", to_write=False)
    try:
        return [await _devices(registry), *await _sites(registry, plan, RealClock().now())]
    finally:
        await registry.close()


async def _devices(registry: Registry) -> Finding:
    """Those in use, by state; of which nothing was ever heard are silent."""
    from gateway.coverage.facts import STATES, ZONE_OF_ALL, Sort

    states: dict[str, str] = {}
    stages: dict[str, str] = {}
    async for page in registry.newest(Sort.HEALTH):
        states |= {
            each.subject[0]: each.value["state"] for each in page if each.value and each.subject[1] == ZONE_OF_ALL
        }
    async for page in registry.newest(Sort.STAGE):
        stages |= {each.subject[0]: each.value["stage"] for each in page if each.value}
    in_use = [device.id for device in registry.devices() if stages.get(device.id) in IN_USE]
    counts = Counter(states.get(device, "silent") for device in in_use)
    failing = sorted(device for device in in_use if states.get(device, "silent") not in ("working", "degraded"))
    said = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none in use yet"
    if failing:
        hint = f"do not work: {_named(failing)} 设备异常,请检查"
        return Finding("devices", "warning", said, hint)
    return Finding("devices", "ok", said)


async def _sites(registry: Registry, plan: Plan, now: datetime) -> Sequence[Finding]:
    """Which of those that have to be networked 110 has heard of within the window."""
    from gateway.coverage.facts import Sort
    from gateway.supervision.site_tests import networked_kinds, wanting

    profiles = [each async for page in registry.newest(Sort.PROFILE) for each in page]
    proven = {each.subject[0]: each.valid_from async for page in registry.newest(Sort.PROOF) for each in page}
    wanted = wanting(registry.sites(), registry.points(), networked_kinds(profiles))
    coverage = plan.site.coverage
    lacking = []
    for site in wanted:
        window = timedelta(hours=coverage.proof_key_unit_h if site.is_key_unit else coverage.proof_h)
        at = proven.get(site.id)
        if at is None or now - at >= window:
            said = f"last proof {at:%F %H:%M} UTC, window {window.total_seconds() / 3600:g} h" if at else "never proven"
            lacking.append(Finding(f"network {site.id}", "failed", said, "its account at 110, and the line 未联网"))
    summary = f"{len(wanted) - len(lacking)} of {len(wanted)} that must be networked are proven"
    more = len(lacking) - NAMED_MAX
    hint = f"{more} more than are named here 其余 {more} 个未列出" if more > 0 else ""
    return [Finding("networked sites", "failed" if lacking else "ok", summary, hint), *lacking[:NAMED_MAX]]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_MAX])
    return f"{shown} and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else shown


# -- certificates ------------------------------------------------------------------------------------------------------


def _certificates(plan: Plan) -> Iterator[Finding]:
    """Of somebody else's broker: what it shows, and what vouches for it. Nothing else here speaks TLS."""
    if plan.site.broker.url is None:
        return
    import socket
    import ssl

    from gateway.links.broker_url import external_address

    address = external_address(plan.site.broker, plan.base)
    if not address.tls:
        return
    hint = "a valid certificate, and its [broker] ?ca= 证书无效"
    try:
        trust = ssl.create_default_context(cafile=address.ca)
    except OSError as error:
        yield Finding("broker ca", "failed", f"{address.ca}: {error}", hint)
        return
    for certificate in trust.get_ca_certs() if address.ca else ():  # also of a broker that is away
        yield _expiry("broker ca", str(certificate["notAfter"]))
    try:
        with (
            socket.create_connection((address.host, address.port), CONNECT_WITHIN_S) as line,
            trust.wrap_socket(line, server_hostname=address.host) as secured,
        ):
            shown = secured.getpeercert()
    except (OSError, ValueError) as error:  # what has expired among it
        yield Finding("broker certificate", "failed", str(error), hint)
        return
    yield _expiry("broker certificate", str((shown or {})["notAfter"]))


def _expiry(what: str, not_after: str) -> Finding:
    import ssl
    from datetime import UTC, datetime

    from gateway.clock import RealClock

    end = datetime.fromtimestamp(ssl.cert_time_to_seconds(not_after), UTC)
    said = f"valid until {end:%F %H:%M} UTC"
    left = end - RealClock().now()
    if left <= timedelta():
        return Finding(what, "failed", said, "put a new one in its place 证书已过期")
    if left < EXPIRES_SOON:
        return Finding(what, "warning", said, "order a new one 证书即将到期")
    return Finding(what, "ok", said)
