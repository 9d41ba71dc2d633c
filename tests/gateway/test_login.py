"""Logging in as people and attackers meet it: a real server, real hashes, a clock that can be put forward."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher

from gateway import accounts as accounts_module
from gateway import login, passwords
from gateway.access import GATEWAY, Role
from gateway.accounts import ONE_TIME_S, SESSION_S, SESSIONS_MAX, Accounts
from gateway.api.guard import COOKIE
from gateway.attempts import Attempts
from gateway.audit import Audit, rows, verify
from gateway.clock import RealClock
from gateway.errors import ConfigError
from gateway.model import Site
from gateway.registry import Registry
from tests.gateway.api_box import Box, closed_box, event

PASSWORD = "correct horse battery"
PATIENCE_S = 30.0
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""Argon2id all the same, but some hundred log-ins take no minute."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "HASHER", QUICK)
    monkeypatch.setattr(passwords, "NOBODY", QUICK.hash("nobody's"))


@pytest.fixture
async def box(tmp_path: Path, quick: None) -> AsyncIterator[Box]:
    """A box with one person, li, who has chosen a password."""
    async with closed_box(tmp_path) as parts:
        await parts.registry.add(Site("s1", "阳泗小区", "A10B"))
        secret = await parts.accounts.add(GATEWAY, "li", Role.DUTY_OFFICER, frozenset({"s1"}))
        async with parts.open():
            async with browser(parts) as page:
                assert (await choose(page, "li", secret, PASSWORD)).status_code == 204
            yield parts


@asynccontextmanager
async def browser(box: Box) -> AsyncIterator[httpx.AsyncClient]:
    """What a browser sends from our own page; it keeps cookies."""
    origin = str(box.client.base_url).rstrip("/")
    async with httpx.AsyncClient(base_url=origin, headers={"origin": origin}) as client:
        yield client


async def log_in(page: httpx.AsyncClient, account: str, password: str) -> httpx.Response:
    return await page.post("/api/v1/session", json={"account": account, "password": password})


async def choose(page: httpx.AsyncClient, account: str, secret: str, new: str) -> httpx.Response:
    return await page.post("/api/v1/password", json={"account": account, "secret": secret, "new": new})


async def status(page: httpx.AsyncClient) -> int:
    return (await page.get("/api/v1/session")).status_code


def deeds(box: Box) -> list[tuple[str, str, str]]:
    """The audit record, oldest first."""
    return [(row.actor, row.deed, row.subject) for row in rows(box.audit.path)][::-1]


# -- a session ---------------------------------------------------------------------------------------------------------


async def test_a_session_begins_with_the_password_and_ends_with_log_out(box: Box) -> None:
    async with browser(box) as page:
        assert await status(page) == 401
        answer = await log_in(page, "li", PASSWORD)
        [cookie] = answer.headers.get_list("set-cookie")
        kept = page.cookies[COOKIE]

        assert answer.status_code == 204
        assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={SESSION_S}"} <= set(cookie.split("; "))
        assert (await page.get("/api/v1/session")).json() == {
            "actor": "account:li", "role": "duty_officer", "sites": ["s1"],
            "permissions": ["deliveries", "locate", "operate", "service", "watch"],
        }  # fmt: skip
        assert (await page.delete("/api/v1/session")).status_code == 204
        assert COOKIE not in page.cookies
        page.cookies.set(COOKIE, kept)
        assert await status(page) == 401
    assert deeds(box)[-2:] == [("account:li", "log-in", "li"), ("account:li", "log-out", "li")]
    assert verify(box.audit.path).fault == ""


async def test_a_session_ends_by_itself_and_outlives_a_restart(box: Box) -> None:
    async with browser(box) as page:
        await log_in(page, "li", PASSWORD)
        registry = await Registry.open(box.audit.path.with_name("registry.db"))
        restarted = await Accounts.open(registry, box.audit, box.clock)
        actor = restarted.by_session(page.cookies[COOKIE])
        await registry.close()
        assert actor is not None
        assert actor.id == "account:li"

        box.clock.shift_s = SESSION_S - 60
        assert await status(page) == 200
        box.clock.shift_s = SESSION_S + 1
        assert await status(page) == 401


async def test_a_clock_that_is_not_set_makes_nothing_valid_again(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "grafana", Role.AUDITOR, None, days=1)
    async with browser(box) as page:
        await log_in(page, "li", PASSWORD)
        box.clock.shift_s = -50 * 365 * 86_400
        assert await status(page) == 401
        assert box.accounts.by_token(token) is None
        box.clock.shift_s = -60  # a correction of a minute is none
        assert await status(page) == 200


async def test_one_person_has_some_browsers_and_the_oldest_goes(box: Box) -> None:
    cookies = []
    async with browser(box) as page:
        for number in range(SESSIONS_MAX + 1):
            box.clock.shift_s = number
            await log_in(page, "li", PASSWORD)
            cookies.append(page.cookies[COOKIE])
    hold = [box.accounts.by_session(cookie) is not None for cookie in cookies]

    assert hold == [False] + [True] * SESSIONS_MAX


async def test_who_is_disabled_or_given_a_new_secret_is_out_at_once(box: Box) -> None:
    async with browser(box) as page:
        for end in (box.accounts.renew, box.accounts.disable):
            await box.accounts.renew(GATEWAY, "li")
            secret = await box.accounts.renew(GATEWAY, "li")
            await choose(page, "li", secret, PASSWORD)
            await log_in(page, "li", PASSWORD)
            assert await status(page) == 200
            await end(GATEWAY, "li")

            assert await status(page) == 401
            assert (await log_in(page, "li", PASSWORD)).status_code == 401


async def test_a_revoked_token_is_refused_and_its_live_stream_ends(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, None, days=1)
    headers = {"authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(20),
        httpx.AsyncClient(base_url=str(box.client.base_url), headers=headers) as wall,
        wall.stream("GET", "/api/v1/stream") as answer,
    ):
        lines = answer.aiter_lines()
        assert await anext(lines) == ": fangkong"
        await box.accounts.revoke(GATEWAY, "wall")
        await box.keep(event())

        assert [line async for line in lines if line.startswith("data:")] == []
        assert (await wall.get("/api/v1/sites")).status_code == 401
    box.clock.shift_s = 2 * 86_400
    later = await box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, None, days=1)
    assert box.accounts.by_token(later) is not None
    box.clock.shift_s += 86_401
    assert box.accounts.by_token(later) is None


async def test_what_another_process_revokes_counts_when_the_file_was_read_again(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, None, days=1)
    registry = await Registry.open(box.audit.path.with_name("registry.db"))
    await (await Accounts.open(registry, box.audit, box.clock)).revoke(GATEWAY, "wall")
    await registry.close()

    assert box.accounts.by_token(token) is not None
    assert await box.registry.reload_if_changed()
    assert box.accounts.by_token(token) is None


# -- from another page -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "", None])
async def test_a_change_with_the_cookie_must_come_from_our_own_page(box: Box, origin: str | None) -> None:
    async with browser(box) as page:
        await log_in(page, "li", PASSWORD)
        own = page.headers.pop("origin")
        headers = {} if origin is None else {"origin": origin}
        assert (await page.delete("/api/v1/session", headers=headers)).status_code == 403
        assert await status(page) == 200  # still logged in
        assert (await page.delete("/api/v1/session", headers={"origin": own})).status_code == 204


async def test_another_page_cannot_log_a_browser_in_and_a_program_needs_no_origin(box: Box) -> None:
    async with httpx.AsyncClient(base_url=str(box.client.base_url)) as client:
        credentials = {"account": "li", "password": PASSWORD}
        foreign = {"origin": "https://evil.example"}
        assert (await client.post("/api/v1/session", json=credentials, headers=foreign)).status_code == 403
        form = {"content-type": "text/plain"}
        body = b'{"account": "li", "password": "correct horse battery"}'
        assert (await client.post("/api/v1/session", content=body, headers=form)).status_code == 422
        assert (await client.post("/api/v1/session", json=credentials)).status_code == 204
    what = {"destination": "centre", "seqs": [1]}
    assert (await box.client.post("/api/v1/deliveries/requeue", json=what)).status_code == 202  # the box's token


# -- guessing ----------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_and_a_name_that_is_not_there_are_told_the_same(box: Box) -> None:
    async with browser(box) as page:
        answers = [await log_in(page, name, "wrong password") for name in ("li", "wang")]
        answers.append(await choose(page, "li", "AAAA-BBBB-CCCC-DDDD-EEEE", "another password"))
        answers.append(await choose(page, "wang", "AAAA-BBBB-CCCC-DDDD-EEEE", "another password"))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert [subject for _, deed, subject in deeds(box) if deed == "log-in refused"] == [
        "li", "no account of this box", "li", "no account of this box",
    ]  # fmt: skip
    assert box.metrics.registry.get_sample_value("fangkong_log_ins_total", {"outcome": "refused"}) == 4


async def test_to_refuse_a_name_that_is_not_there_takes_as_long() -> None:
    """Compared by the processor's time in one run: the machine is busy."""
    hashing = passwords.Hashing()
    kept = await hashing.hashed(PASSWORD)

    async def cost(kept: str | None) -> float:
        before = time.process_time()
        for _ in range(3):
            assert not await hashing.fits("wrong password", kept)
        return time.process_time() - before

    there, not_there = await cost(kept), await cost(None)
    hashing.close()

    assert 0.5 < not_there / there < 2.0
    assert not passwords.HASHER.check_needs_rehash(passwords.NOBODY)
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=1$")  # what a real box does; elsewhere QUICK stands for it


async def test_tries_as_one_person_are_bounded_and_others_log_in_meanwhile(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    wang = await box.accounts.add(GATEWAY, "wang", Role.AUDITOR, None)
    async with browser(box) as page:
        answers = [await log_in(page, "li", f"guess {number}") for number in range(login.ACCOUNT_BURST)]
        assert {answer.status_code for answer in answers} == {401}
        box.clock.shift_s += 1
        limited = await log_in(page, "li", PASSWORD)

        assert limited.status_code == 429
        assert 0 < int(limited.headers["retry-after"]) <= login.ACCOUNT_EVERY_S
        assert (await choose(page, "wang", wang, "another password")).status_code == 204
        assert (await box.get("/api/v1/events")).status_code == 200  # who is in stays in
        box.clock.shift_s += login.ACCOUNT_EVERY_S
        assert (await log_in(page, "li", PASSWORD)).status_code == 204
        box.clock.shift_s += login.ACCOUNT_EVERY_S
        assert (await log_in(page, "li", PASSWORD)).status_code == 204  # a good try is given back
    assert box.metrics.registry.get_sample_value("fangkong_log_ins_total", {"outcome": "limited"}) == 1


async def test_a_guesser_elsewhere_keeps_nobody_out_where_they_were_let_in_before(box: Box) -> None:
    origin = str(box.client.base_url).rstrip("/")
    elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=elsewhere, base_url=origin) as guesser, browser(box) as page:
        for _ in range(login.ACCOUNT_BURST):
            assert (await log_in(guesser, "li", "a guess")).status_code == 401
        assert (await log_in(guesser, "li", PASSWORD)).status_code == 429

        assert (await log_in(page, "li", PASSWORD)).status_code == 204


async def test_addresses_that_people_came_from_are_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "HOMES_MAX", 2)
    for peer in ("a", "b", "c", "b", "d"):
        await box.looks.log_in.begin("li", PASSWORD, peer)

    assert list(box.looks.log_in._homes) == [("li", "b"), ("li", "d")]


async def test_a_cookie_given_over_tls_never_goes_without(box: Box) -> None:
    async with browser(box) as page:
        plain = await log_in(page, "li", PASSWORD)
        page.headers["origin"] = f"https://127.0.0.1:{box.port}"
        encrypted = await log_in(page, "li", PASSWORD)

    assert ["Secure" in answer.headers["set-cookie"] for answer in (plain, encrypted)] == [False, True]


async def test_tries_from_one_address_are_bounded_whatever_the_name(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.looks.log_in._hashing, "fits", _never)  # the hash itself is not the question here
    async with browser(box) as page:
        statuses = [(await log_in(page, f"name-{number}", "x")).status_code for number in range(login.PEER_BURST + 2)]

    assert statuses == [401] * login.PEER_BURST + [429, 429]


async def _never(given: str, kept: str | None) -> bool:
    return False


async def test_names_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway import attempts

    monkeypatch.setattr(attempts, "KEYS_MAX", 2)
    tries = attempts.Attempts(burst=1, every_s=10.0)

    assert [tries.take(key, 0.0) for key in ("a", "b", "a", "c", "a")] == [0.0, 0.0, 10.0, 0.0, 0.0]


async def test_passwords_that_wait_to_be_checked_are_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(passwords, "_fits", lambda kept, password: not go.wait(PATIENCE_S))
    async with asyncio.timeout(PATIENCE_S), browser(box) as page, asyncio.TaskGroup() as group:
        waiting = [group.create_task(log_in(page, f"name-{number}", "x")) for number in range(passwords.HASHES_MAX)]
        while box.looks.log_in._hashing._waiting < passwords.HASHES_MAX:
            await asyncio.sleep(0.01)  # noqa: TID251  # between two looks
        one_more = await log_in(page, "one-more", "x")
        go.set()

    assert one_more.status_code == 503
    assert [task.result().status_code for task in waiting] == [401] * passwords.HASHES_MAX


# -- one-time secrets and passwords ------------------------------------------------------------------------------------


async def test_a_one_time_secret_is_good_once_and_for_a_day(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await box.accounts.add(GATEWAY, "wang", Role.AUDITOR, None)
    async with browser(box) as page:
        assert (await log_in(page, "wang", first)).status_code == 401  # it is no password
        typed = f" {first.lower()} "
        both = await asyncio.gather(*(choose(page, "wang", typed, f"wonderful {n}{n}{n}{n}") for n in range(2)))
        assert sorted(answer.status_code for answer in both) == [204, 401]
        assert (await choose(page, "wang", first, "yet another one")).status_code == 401

        second = await box.accounts.renew(GATEWAY, "wang")
        box.clock.shift_s = ONE_TIME_S + 1
        assert (await choose(page, "wang", second, "yet another one")).status_code == 401
        box.clock.shift_s = -2 * ONE_TIME_S
        monkeypatch.setattr(
            box.looks.log_in, "_tries_as", Attempts(burst=9, every_s=1.0)
        )  # which went back with the clock
        monkeypatch.setattr(box.looks.log_in, "_tries_from", Attempts(burst=9, every_s=1.0))
        assert (await choose(page, "wang", second, "yet another one")).status_code == 401


@pytest.mark.parametrize("weak", ["short", "aaaaaaaaaaaa", "my name is li!", PASSWORD, "x1" * 65])
async def test_a_weak_password_is_refused_and_the_old_one_stays(box: Box, weak: str) -> None:
    async with browser(box) as page:
        answer = await choose(page, "li", PASSWORD, weak)
        assert answer.status_code == 422
        assert "new: " in answer.json()["detail"] or "body.new" in answer.json()["detail"]
        assert (await log_in(page, "li", PASSWORD)).status_code == 204


async def test_a_new_password_ends_every_session(box: Box) -> None:
    async with browser(box) as page, browser(box) as other:
        await log_in(page, "li", PASSWORD)
        await choose(other, "li", PASSWORD, "a different horse")

        assert await status(page) == 401
        assert (await log_in(page, "li", PASSWORD)).status_code == 401
        assert (await log_in(page, "li", "a different horse")).status_code == 204


@pytest.mark.usefixtures("quick")
async def test_a_fresh_box_lets_nobody_in_by_a_common_password(tmp_path: Path, quick: None) -> None:
    async with closed_box(tmp_path) as parts, parts.open() as box, browser(box) as page:
        secret = await box.accounts.first()
        assert secret is not None
        assert await box.accounts.first() is None  # once
        for common in ("", "admin", "password", "123456", "fangkong", "changeme"):
            for name in ("admin", "root"):
                box.clock.shift_s += login.ACCOUNT_EVERY_S
                assert (await log_in(page, name, common)).status_code == 401
                assert (await choose(page, name, common, "a different horse")).status_code == 401
        assert (await choose(page, "admin", secret, "a different horse")).status_code == 204


async def test_no_secret_is_on_disk_as_it_was_given_out(box: Box) -> None:
    token = await box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, frozenset({"s1"}), days=1)
    one_time = await box.accounts.add(GATEWAY, "wang", Role.AUDITOR, None)
    async with browser(box) as page:
        await log_in(page, "li", PASSWORD)
        await log_in(page, PASSWORD, "x")  # typed into the wrong field
        secrets = [token, one_time, PASSWORD, page.cookies[COOKIE]]
    folder = box.audit.path.parent
    with closing(sqlite3.connect(folder / "registry.db")) as db:
        text = "\n".join(db.iterdump())
    contents = [text.encode(), *(path.read_bytes() for path in folder.iterdir() if path.is_file())]

    assert "$argon2id$" in text
    assert not [secret for secret in secrets for content in contents if secret.encode() in content]
    assert PASSWORD not in repr(box.accounts.account("li"))


# -- without a record, no act ------------------------------------------------------------------------------------------


async def test_what_cannot_be_recorded_does_not_happen(box: Box) -> None:
    box.audit.path.unlink()
    box.audit.path.mkdir()
    async with browser(box) as page:
        assert (await log_in(page, "li", PASSWORD)).status_code == 503
        assert COOKIE not in page.cookies
    before = list(box.accounts.tokens())
    assert (
        await box.client.post("/api/v1/deliveries/requeue", json={"destination": "centre", "seqs": [1]})
    ).status_code == 503
    for act in (
        box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, None, days=1),
        box.accounts.disable(GATEWAY, "li"),
    ):
        with pytest.raises(Exception, match="audit record"):
            await act
    assert (list(box.accounts.tokens()), box.accounts.account("li").disabled) == (before, False)  # type: ignore[union-attr]  # it is there


async def test_the_record_is_shown_newest_first_page_by_page_also_where_it_was_changed(box: Box) -> None:
    async with browser(box) as page:
        await log_in(page, "li", PASSWORD)
    with closing(sqlite3.connect(box.audit.path)) as db, db:
        db.execute("UPDATE audit SET details = 'gone' WHERE seq = 2")
    first = (await box.get("/api/v1/audit", limit=2)).json()
    second = (await box.get("/api/v1/audit", limit=2, after=first["next"])).json()

    assert [(row["seq"], row["deed"]) for row in first["items"] + second["items"]] == [
        (3, "log-in"), (2, "password"), (1, "account"),
    ]  # fmt: skip
    assert first["items"][0]["details"] == {"peer": "127.0.0.1"}
    assert first["items"][1]["details"] == {"changed by hand": "gone"}
    assert (first["next"], second["next"]) == (2, None)


# -- what an administrator may ask for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role", "sites", "words"),
    [
        ("Li", Role.AUDITOR, None, "expected 1 to 32 of a-z"),
        ("li", Role.AUDITOR, None, "'li' is there already"),
        ("wang", Role.TEST_ENGINEER, None, "a test engineer has no others"),
        ("wang", Role.AUDITOR, frozenset({"s9"}), "'s9' is not in the ledger"),
        ("wang", Role.AUDITOR, frozenset(), "found 0; expected 1 to 50 sites"),
        ("wang", Role.AUDITOR, frozenset(f"s{n}" for n in range(51)), "found 51; expected 1 to 50 sites"),
    ],
)  # fmt: skip
async def test_an_account_that_cannot_be_meant_is_refused(
    box: Box, name: str, role: Role, sites: frozenset[str] | None, words: str
) -> None:
    for act in (
        box.accounts.add(GATEWAY, name, role, sites),
        box.accounts.add_token(GATEWAY, name, role, sites, days=0),
    ):
        with pytest.raises(ConfigError) as refused:
            await act
        if "already" not in words:
            assert words in str(refused.value)
    assert "found 0; expected 1 to 366" in str(refused.value)


async def test_accounts_and_tokens_are_bounded(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "ACCOUNTS_MAX", 1)
    monkeypatch.setattr(accounts_module, "TOKENS_MAX", 0)
    with pytest.raises(ConfigError, match="1 are there; expected at most 1"):
        await box.accounts.add(GATEWAY, "wang", Role.AUDITOR, None)
    with pytest.raises(ConfigError, match="0 are there; expected at most 0"):
        await box.accounts.add_token(GATEWAY, "wall", Role.AUDITOR, None, days=1)


async def test_a_start_does_not_wait_for_whoever_writes_to_the_ledger(tmp_path: Path) -> None:
    await (await Registry.open(tmp_path / "registry.db")).close()
    with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        registry = await Registry.open(tmp_path / "registry.db")
        accounts = await Accounts.open(registry, Audit(tmp_path / "audit.db", RealClock()), RealClock())
        await registry.close()

    assert list(accounts.accounts()) == []


async def test_a_role_of_a_later_version_grants_nothing(tmp_path: Path) -> None:
    registry = await Registry.open(tmp_path / "registry.db")
    audit = Audit(tmp_path / "audit.db", RealClock())
    token = await (await Accounts.open(registry, audit, RealClock())).add_token(
        GATEWAY, "wall", Role.AUDITOR, None, days=1
    )
    with closing(sqlite3.connect(tmp_path / "registry.db")) as db, db:
        db.execute("UPDATE token SET role = 'commander'")

    assert (await Accounts.open(registry, audit, RealClock())).by_token(token) is None
    await registry.close()
