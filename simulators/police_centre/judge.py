"""What the centre makes of a frame: the row it records and the answer it owes. No sockets here."""

import json
import random
import re
import string
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from simulators._clock import Clock
from simulators.police_centre import frames
from simulators.police_centre.audit import Audit, Sighting
from simulators.police_centre.frames import Content, Header, Rubbish, Unreadable
from simulators.police_centre.misbehaviour import PER_DATAGRAM, PER_FRAME, Misbehaviour, Plan

# DC-09 5.5.1.9: how far an encrypted message may be from the receiver's clock.
AHEAD_MAX_S = 20
BEHIND_MAX_S = 40
EVENT, LINK_TEST = "ADM-CID", "NULL"
# A new key (K) and the one before it: the sender whose RSP was lost still uses the old one.
KEYS_PER_ACCOUNT_MAX = 2
# Accounts with a key of their own. Beyond it a new key is answered but not learnt, and the old one stays good.
ACCOUNTS_MAX = 10_000
# Contact ID 600..609 are tests; a record of ours may also be marked in its JSON.
_TEST_CODES = {f"60{digit}" for digit in range(1, 10)}

_CID = re.compile(r"(?:#([0-9A-Fa-f]{3,16})\|)?([136])([0-9A-F]{3}) ([0-9A-F]{2}) ([0-9A-F]{3})")
_POSITION = {"X": re.compile(r"\d{3}[EW]\d{2}\.\d+"), "Y": re.compile(r"\d{2}[NS]\d{2}\.\d+")}
# Nobody's JSON of 4095 bytes needs more; a thousand objects inside each other exhaust the stack.
J_OBJECTS_MAX = 64
# What the record calls an answer that is none; every other misbehaviour ends in a true ACK.
_ANSWER_INSTEAD = {
    "nak": "NAK",
    "duh": "DUH",
    "silence": "silence",
    "drop_before_ack": "drop",
    "wrong_sequence": "wrong_sequence",
}
_PAD_ALPHABET = (string.ascii_letters + string.digits).encode("ascii")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the record. Fields of the wire stand as they were sent; None: the frame has none."""

    id: str | None
    key: str | None
    t: float
    account: str | None
    seq: str | None
    token: str | None
    encrypted: bool
    qualifier: int | None
    code: str | None
    group: str | None
    zone: str | None
    h: str | None
    x: str | None
    y: str | None
    text: str | None
    json: Any
    test: bool
    copy: bool
    answer: str
    why: str | None  # why the answer is not an ACK
    misbehaviour: str | None
    deviations: tuple[str, ...]
    transport: str
    peer: str
    frame: str

    def line(self) -> str:
        """The row as one JSON line, without the line end."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row, the frames that answer it (none: silence) and how late they leave."""

    row: Row
    replies: tuple[bytes, ...] = ()
    late_s: float = 0.0


class Judge:
    """Reads frames for all connections; knows keys and accounts, keeps the audit, obeys the plan."""

    def __init__(
        self,
        *,
        keys: Mapping[str, bytes],
        key_for_all: bytes | None,
        accounts: Collection[str] | None,
        plan: Plan,
        audit: Audit,
        clock: Clock,
    ) -> None:
        for name, key in [*keys.items(), *([("every account", key_for_all)] if key_for_all else [])]:
            if len(key) not in frames.KEY_SIZES:
                raise ValueError(f"key of {name}: {len(key)} bytes, expected 16, 24 or 32 (AES-128, -192, -256)")
        self._keys = {account.upper(): (key,) for account, key in keys.items()}
        self._keys_for_all = (key_for_all,) if key_for_all else ()
        self._accounts = None if accounts is None else {account.upper() for account in accounts}
        self._plan = plan
        self._audit = audit
        self._clock = clock
        self._dice = random.Random(0)

    def rubbish(self, rubbish: Rubbish, *, transport: str, peer: str) -> Verdict:
        """Bytes that are no frame are recorded and met with silence."""
        return Verdict(self._blank(rubbish.raw, transport, peer, rubbish.why))

    def frame(self, body: bytes, *, transport: str, peer: str) -> Verdict:
        """Judge one body whose CRC and length are right."""
        row = self._blank(body, transport, peer, None)
        try:
            header = frames.read_header(body)
            row = replace(row, account=header.account, seq=header.seq, token=header.token, encrypted=header.encrypted)
            keys = self._keys.get(header.account.upper(), self._keys_for_all)
            content = frames.read_content(body, header, keys)
        except Unreadable as error:
            return Verdict(replace(row, why=str(error)))
        row = _filled(row, header, content)
        answer, why = self._honest_answer(row, header, content)
        misbehaviour = self._misbehaviour(row, answer, transport)
        if misbehaviour is not None:
            answer = _ANSWER_INSTEAD.get(misbehaviour.kind, answer)
            row = replace(row, misbehaviour=misbehaviour.kind)
        if row.key is not None:
            row = replace(row, copy=self._audit.see(_sighting(row, row.key, taken=answer not in {"NAK", "DUH"})))
        if answer == "RSP":
            self._learn_key(header, content)
        late_s = misbehaviour.seconds if misbehaviour and misbehaviour.kind == "late" else 0.0
        replies = self._replies(answer, header, content, misbehaviour)
        return Verdict(replace(row, answer=answer, why=why), replies, late_s)

    def _blank(self, raw: bytes, transport: str, peer: str, why: str | None) -> Row:
        return Row(
            id=None, key=None, t=self._clock.now(), account=None, seq=None, token=None, encrypted=False,
            qualifier=None, code=None, group=None, zone=None, h=None, x=None, y=None, text=None, json=None,
            test=False, copy=False, answer="silence", why=why, misbehaviour=None, deviations=(),
            transport=transport, peer=peer, frame=raw.decode("utf-8", "backslashreplace"),
        )  # fmt: skip

    def _now(self) -> float:
        return self._clock.now() + self._plan.clock_offset_s()

    def _honest_answer(self, row: Row, header: Header, content: Content) -> tuple[str, str | None]:
        if header.encrypted and content.stamp_s is not None:
            ahead_s = content.stamp_s - int(self._now())
            if not -BEHIND_MAX_S <= ahead_s <= AHEAD_MAX_S:
                return "NAK", (
                    f"timestamp is {ahead_s:+.0f} s from our clock, expected -{BEHIND_MAX_S}..+{AHEAD_MAX_S} s"
                )
        if self._accounts is not None and header.account.upper() not in self._accounts:
            return "DUH", f"account {header.account} is not known here"
        if header.token not in {EVENT, LINK_TEST}:
            return "DUH", f"token {header.token} is not served here, expected {EVENT} or {LINK_TEST}"
        if header.token == EVENT and row.code is None:
            return "DUH", f"expected #acct|QXYZ GG CCC, found {content.data[:32]!r}"
        return ("RSP" if _new_key(content) else "ACK"), None

    def _misbehaviour(self, row: Row, honest_answer: str, transport: str) -> Misbehaviour | None:
        if honest_answer not in {"ACK", "RSP"}:
            return None  # a refusal is an answer we owe; misbehaving is about frames that deserve an ACK
        kinds = PER_FRAME if transport == "tcp" else PER_DATAGRAM
        return self._plan.fire(kinds, "null" if row.token == LINK_TEST else "event")

    def _replies(
        self, answer: str, header: Header, content: Content, misbehaviour: Misbehaviour | None
    ) -> tuple[bytes, ...]:
        if answer in {"silence", "drop"}:
            return ()
        if answer == "NAK":
            return (frames.nak(self._now() + (misbehaviour.seconds if misbehaviour else 0)),)
        if answer == "DUH":
            return (frames.duh(header),)
        seq = f"{int(header.seq) % 9999 + 1:04d}" if answer == "wrong_sequence" else header.seq
        token = "RSP" if answer == "RSP" else "ACK"
        reply = frames.reply(token, header, seq=seq, key=content.key, now_s=self._now(), pad=self._pad)
        return (reply, reply) if misbehaviour and misbehaviour.kind == "double_ack" else (reply,)

    def _pad(self, count: int) -> bytes:
        return bytes(self._dice.choices(_PAD_ALPHABET, k=count))

    def _learn_key(self, header: Header, content: Content) -> None:
        account, key = header.account.upper(), _new_key(content)
        known = self._keys.get(account, self._keys_for_all)
        has_room = account in self._keys or len(self._keys) < ACCOUNTS_MAX
        if key and key not in known and has_room:
            self._keys[account] = (key, *known)[:KEYS_PER_ACCOUNT_MAX]


def _new_key(content: Content) -> bytes | None:
    """The key in a K field. Only an encrypted frame may bring one: a plain one would show it to everybody."""
    for letter, value in content.extended:
        if letter == "K" and content.key is not None:
            try:
                key = bytes.fromhex(value.decode("ascii"))
            except ValueError:
                return None
            return key if len(key) in frames.KEY_SIZES else None
    return None


def _filled(row: Row, header: Header, content: Content) -> Row:
    """The row with what the content says; everything unusual about it is listed under deviations."""
    deviations = []
    if content.pad_bytes is not None and content.pad_bytes < frames.PAD_MIN_BYTES:
        deviations.append(f"pad of {content.pad_bytes} bytes, expected {frames.PAD_MIN_BYTES} or more")
    fields = {letter: value.decode("utf-8", "backslashreplace") for letter, value in content.extended}
    if len(fields) < len(content.extended):
        deviations.append("an extended field stands twice")
    deviations += [
        f"{letter} is {fields[letter]!r}" for letter, form in _POSITION.items()
        if letter in fields and not form.fullmatch(fields[letter])
    ]  # fmt: skip
    attached: Any = None
    if "J" in fields:
        try:
            attached = _attached(fields["J"])
        except ValueError as error:
            deviations.append(f"J: {error}")
    if "H" in fields and frames.stamp_seconds(fields["H"]) is None:
        deviations.append(f"H is {fields['H']!r}, expected HH:MM:SS,MM-DD-YYYY")
    members = attached if isinstance(attached, dict) else {}
    row = replace(
        row,
        id=members["id"] if isinstance(members.get("id"), str) else None,
        h=fields.get("H"),
        x=fields.get("X"),
        y=fields.get("Y"),
        text=fields.get("I"),
        json=attached,
        test=members.get("test") is True,
    )
    match = _CID.fullmatch(content.data.decode("utf-8", "backslashreplace")) if header.token == EVENT else None
    if match is None:
        return replace(row, deviations=tuple(deviations))
    inner_account, qualifier, code, group, zone = match.groups()
    if inner_account is None or inner_account.upper() != header.account.upper():
        deviations.append(f"account {inner_account} in the data, {header.account} in the header")
    if row.h is None:
        deviations.append("no H: a repeat cannot be told from a second event")
    return replace(
        row,
        key=f"{header.account}/{header.seq}/{row.h or content.stamp or ''}",
        qualifier=int(qualifier),
        code=code,
        group=group,
        zone=zone,
        test=row.test or code in _TEST_CODES,
        deviations=tuple(deviations),
    )


def _attached(text: str) -> Any:
    if text.count("{") > J_OBJECTS_MAX:
        raise ValueError(f"more than {J_OBJECTS_MAX} objects")
    return json.loads(text, parse_constant=_not_a_number)


def _not_a_number(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _sighting(row: Row, key: str, *, taken: bool) -> Sighting:
    content = (row.account, row.qualifier, row.code, row.group, row.zone, row.h, row.id)
    return Sighting(key, row.id, content, has_occurrence=row.h is not None, taken=taken)
