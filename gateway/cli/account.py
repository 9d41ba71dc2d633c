"""`fangkong account` and `fangkong token`: the people and programs that may ask this box."""

from __future__ import annotations

import argparse
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway.cli._site_file import OK, add_common, audit_of, open_registry, os_actor, show

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.access import Role
    from gateway.accounts import Account, Accounts
    from gateway.cli import Commands
    from gateway.cli._site_file import Command

ROLES = ("duty_officer", "maintenance", "test_engineer", "auditor", "administrator")
"""As `gateway.access.Role` has them, which the command line imports only when it is needed."""
TOKEN_DAYS = 90
"""A quarter: whoever needs it longer says so."""


def add_parser(commands: Commands) -> None:
    account = commands.add_parser("account")
    verbs = account.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="a new account; prints the one-time secret its owner exchanges for a password")
    _scope(add, "name", _add)
    add_common(verbs.add_parser("list", help="accounts and their state"), _list)
    for verb, command, text in (
        ("disable", _disable, "log out and keep out; passwd lets in again"),
        ("passwd", _passwd, "a new one-time secret instead of the password"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("name")
        add_common(one, command)

    token = commands.add_parser("token")
    verbs = token.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="a new token; it is printed this once")
    add.add_argument("--days", type=int, default=TOKEN_DAYS, help=f"good for so long (default {TOKEN_DAYS})")
    _scope(add, "label", _add_token)
    add_common(verbs.add_parser("list", help="tokens and when they end"), _list_tokens)
    revoke = verbs.add_parser("revoke", help="a token that counts no more")
    revoke.add_argument("label")
    add_common(revoke, _revoke)


def _scope(parser: argparse.ArgumentParser, what: str, command: Command) -> None:
    parser.add_argument(what)
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--site", action="append", help="only this site; may be given several times (default: all)")
    add_common(parser, command)


@asynccontextmanager
async def _accounts(args: argparse.Namespace) -> AsyncIterator[Accounts]:
    from gateway.accounts import Accounts
    from gateway.clock import RealClock

    registry = await open_registry(args)
    try:
        yield await Accounts.open(registry, audit_of(args), RealClock())
    finally:
        await registry.close()


def _reach(args: argparse.Namespace) -> tuple[Role, frozenset[str] | None]:
    from gateway.access import Role

    return Role(args.role), None if args.site is None else frozenset(args.site)


async def _add(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        secret = await accounts.add(os_actor(), args.name, *_reach(args))
    return _give(
        args, "one_time_secret", secret, "good for a day and one use, at the page of the gateway 首次登录用一次性口令"
    )


async def _passwd(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        secret = await accounts.renew(os_actor(), args.name)
    return _give(
        args, "one_time_secret", secret, "good for a day and one use, at the page of the gateway 首次登录用一次性口令"
    )


async def _add_token(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        token = await accounts.add_token(os_actor(), args.label, *_reach(args), days=args.days)
    return _give(args, "token", token, f"shown this once; ends in {args.days} days 仅显示一次")


def _give(args: argparse.Namespace, what: str, secret: str, hint: str) -> int:
    print(json.dumps({"ok": True, what: secret}) if args.json else f"{secret}\n({hint})")
    return OK


async def _disable(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        await accounts.disable(os_actor(), args.name)
    return _done(args, f"{args.name}: disabled 已停用")


async def _revoke(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        await accounts.revoke(os_actor(), args.label)
    return _done(args, f"{args.label}: revoked 已吊销")


def _done(args: argparse.Namespace, text: str) -> int:
    print(json.dumps({"ok": True}) if args.json else text)
    return OK


async def _list(args: argparse.Namespace) -> int:
    async with _accounts(args) as accounts:
        found = sorted(accounts.accounts(), key=lambda account: account.name)
    rows = [{**_row(account.role, account.sites, name=account.name), "state": _state(account)} for account in found]
    show(args, rows, empty="no accounts yet: fangkong account add 尚无账号")
    return OK


def _state(account: Account) -> str:
    if account.disabled:
        return "disabled"
    return "waits for its owner" if account.password is None else "in use"


async def _list_tokens(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    async with _accounts(args) as accounts:
        found = sorted(accounts.tokens(), key=lambda token: token.label)
    rows = [
        {
            **_row(token.role, token.sites, label=token.label),
            "until": datetime.fromtimestamp(token.until, UTC).isoformat(),
        }
        for token in found
    ]
    show(args, rows, empty="no tokens yet: fangkong token add 尚无令牌")
    return OK


def _row(role: Role, sites: frozenset[str] | None, **name: str) -> dict[str, Any]:
    return {**name, "role": role.value, "sites": "all" if sites is None else " ".join(sorted(sites))}
