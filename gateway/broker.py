"""The MQTT broker: somebody else's by `[broker] url`, else a child of ours that dies with us and is restarted.

`mosquitto` when it is on PATH, set up so that what it acknowledged survives its own kill, except for the last 0.1 s
(it confirms before it saves). Else amqtt, for a demo: it keeps everything in memory, and forgets a message that it
has once sent to us, acknowledged or not. A broker is never the system of record.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from structlog.typing import FilteringBoundLogger as Logger

from gateway import leash
from gateway.clock import Clock
from gateway.config import GATEWAY_USER, BrokerSection, read_secret
from gateway.errors import ConfigError, Problem, Refused
from gateway.links.broker_url import external_address
from gateway.links.mqtt_client import IN_HAND_MAX, PACKET_MAX_BYTES, BrokerAddress
from gateway.secret import Secret

HASH_ROUNDS = 1000
"""PBKDF2 rounds: 1 ms a login on a small box, so that a thousand devices coming back at once take a second."""
START_TIMEOUT_S = 30.0
"""amqtt takes 2 s to import on a desk and ten times that on a small box under load."""
POLL_S = 0.05
PORT_FREE_S = 10.0
"""A predecessor whose daemon was killed needs a moment to leave (leash.PATIENCE_S)."""
BACKOFF_MIN_S, BACKOFF_MAX_S = 1.0, 30.0
STEADY_S = 60.0
"""A broker that ran this long starts the back-off anew."""
SAVE_EVERY_S = 10
"""Without a save on each change: what a killed broker may forget of its sessions and retained messages, against the wear
of a card that is written for ever."""
STOP_TIMEOUT_S = leash.PATIENCE_S + 2.0


class Broker:
    """An async context: inside, `address` answers. `supervise` keeps it so."""

    kind: Literal["external", "mosquitto", "amqtt"]
    address: BrokerAddress

    def __init__(
        self,
        section: BrokerSection,
        data_dir: Path,
        clock: Clock,
        random: Random,
        log: Logger,
        *,
        base: Path = Path(),
        keeps_all: bool = True,
    ) -> None:
        """`base`: the site file's folder, where relative paths of the section begin. `keeps_all`: a mosquitto of our own
        saves each message before the next; False where the devices repeat until they have the gateway's own receipt."""
        self._keeps_all = keeps_all
        self._section = section
        self._dir = data_dir / "broker"
        self._clock = clock
        self._random = random
        self._log = log
        self._base = base
        self._listen: tuple[str, int]
        self._command: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._mosquitto = shutil.which("mosquitto")
        self.kind = "external" if section.url else "mosquitto" if self._mosquitto else "amqtt"

    async def __aenter__(self) -> Self:
        """Raises ConfigError for a section that cannot work, Refused when disk or child say no."""
        if self._section.url:
            self.address = external_address(self._section, self._base)
            return self
        host, port = await self._free_address()
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            passwords = self._passwords()
            self._listen = host, port
            self._write_files(passwords)
        except OSError as error:
            raise Refused(f"cannot write the files of the broker: {error}") from error
        # amqtt knows only 3.1.1 and, asked for 5, waits for ever instead of saying so.
        version = self._section.version if self.kind == "mosquitto" else "3.1.1"
        self.address = BrokerAddress(_reachable(host), port, GATEWAY_USER, passwords[GATEWAY_USER], version)
        try:
            await self._start()
        except BaseException:  # refused, or we are told to stop: nobody will leave a context that was never entered
            await self._stop()
            raise
        self._log.info("broker started", kind=self.kind, listen=f"{host}:{port}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def is_up(self) -> bool:
        """The child runs. An external broker is not ours to judge: its connections say how it is."""
        return self.kind == "external" or (self._process is not None and self._process.returncode is None)

    async def let_in(self, section: BrokerSection) -> None:
        """Let in the users of this section, which is otherwise the same. Who is still known to mosquitto stays connected;
        amqtt cannot learn, ends, and is started again. Raises ConfigError, OSError."""
        if self.kind == "external" or self._process is None:
            return
        self._section = section
        await asyncio.to_thread(lambda: self._write_users(self._passwords()))  # some milliseconds a user, and a sync
        with suppress(ProcessLookupError):  # ended just now: it is started again with the new files
            os.kill(self._process.pid, signal.SIGHUP)

    async def supervise(self) -> None:
        """For ever: start the child again, with back-off, whenever it ends. Run as a task inside the context."""
        if self.kind == "external":
            await asyncio.Event().wait()
        delay_s = BACKOFF_MIN_S
        while True:
            since = self._clock.monotonic()
            status = await self._follow()
            if self._clock.monotonic() - since >= STEADY_S:
                delay_s = BACKOFF_MIN_S
            self._log.error("broker ended", kind=self.kind, status=status, retry_s=round(delay_s, 1))
            await self._clock.sleep(delay_s * self._random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, BACKOFF_MAX_S)
            try:
                await self._start()
            except (Refused, OSError) as error:  # OSError: no process or descriptor to be had at the moment
                self._log.error("broker did not start", kind=self.kind, reason=str(error))
            else:
                self._log.warning("broker is back", kind=self.kind)

    # -- the child -----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start the child and wait until its port accepts. Raises Refused."""
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", leash.__file__, *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at a terminal is for us; we end the child last
        )  # fmt: skip
        deadline = self._clock.monotonic() + START_TIMEOUT_S
        while not await self._accepts():
            if process.returncode is not None:
                assert process.stderr is not None
                said = (await process.stderr.read()).decode(errors="replace").strip()[-500:]
                raise Refused(f"{self.kind} ended at once with status {process.returncode}: {said or 'no word'}")
            if self._clock.monotonic() > deadline:
                await self._stop()
                raise Refused(f"{self.kind} did not open its port within {START_TIMEOUT_S:.0f} s")
            await self._clock.sleep(POLL_S)

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.address.host, self.address.port)
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def _follow(self) -> int:
        """Pass on what the child says until it ends."""
        process = self._process
        assert process is not None
        assert process.stderr is not None
        while said := await process.stderr.read(4096):
            self._log.warning("broker says", kind=self.kind, text=said.decode(errors="replace").strip())
        return await process.wait()

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.stderr.read()
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _free_address(self) -> tuple[str, int]:
        """The address to listen on; port 0 becomes a free one. Raises ConfigError when it stays taken."""
        host, _, port = self._section.listen.rpartition(":")
        host = host.strip("[]")
        deadline = self._clock.monotonic() + PORT_FREE_S
        is_told = False
        while True:
            try:
                with socket.create_server((host, int(port)), family=_family(host)) as probe:
                    return host, probe.getsockname()[1]
            except OSError as error:
                if self._clock.monotonic() > deadline:
                    hint = "stop the other broker, use its url, or choose another port 端口被占用"
                    found = f"{self._section.listen}: {error.strerror or error}"
                    problem = Problem("site file", None, "broker.listen", found, "a free HOST:PORT", hint)
                    raise ConfigError([problem]) from error
                if not is_told:
                    self._log.warning("broker port is taken", listen=self._section.listen, wait_s=PORT_FREE_S)
                    is_told = True
            await self._clock.sleep(POLL_S)

    # -- its files -----------------------------------------------------------------------------------------------------

    def _passwords(self) -> dict[str, Secret]:
        """Every user's password; files that are missing are made with a random one."""
        paths = {GATEWAY_USER: self._dir / "gateway.password"}
        for user, path in self._section.passwords.items():
            paths[user] = self._base / path
        for user, path in paths.items():
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_private(path, secrets.token_urlsafe(24) + "\n")
                self._log.info("broker password made", user=user, file=str(path))
        return {user: read_secret(path) for user, path in paths.items()}

    def _topics(self, user: str) -> tuple[str, ...]:
        if user == GATEWAY_USER:
            return ("#", "$SYS/#")
        return self._section.topics.get(user, (f"fangkong/v1/{user}/#", f"{user}/#"))

    def _write_files(self, passwords: Mapping[str, Secret]) -> None:
        self._write_users(passwords)
        if self._mosquitto:
            config = self._dir / "mosquitto.conf"
            _write_private(config, _mosquitto_config(self._dir.resolve(), *self._listen, keeps_all=self._keeps_all))
            self._command = [self._mosquitto, "-c", str(config)]
        else:
            self._command = [sys.executable, "-m", "gateway.broker", "--amqtt", str(self._dir / "amqtt.json")]

    def _write_users(self, passwords: Mapping[str, Secret]) -> None:
        if self._mosquitto:
            hashes = [f"{user}:{_mosquitto_hash(password)}\n" for user, password in passwords.items()]
            _write_private(self._dir / "passwords", "".join(hashes))
            _write_private(self._dir / "topics.acl", "".join(self._acl(user) for user in passwords))
        else:
            _write_private(self._dir / "amqtt.passwords", _amqtt_hashes(passwords))
            topics = {user: list(self._topics(user)) for user in passwords}
            config = _amqtt_config(self._dir.resolve(), *self._listen, topics)
            _write_private(self._dir / "amqtt.json", json.dumps(config))

    def _acl(self, user: str) -> str:
        return f"user {user}\n" + "".join(f"topic readwrite {topic}\n" for topic in self._topics(user)) + "\n"


def _mosquitto_config(folder: Path, host: str, port: int, *, keeps_all: bool) -> str:
    """Unless it saves on changes, a killed mosquitto forgets messages it has acknowledged; but then it writes its whole
    state per message (1 300 to 1 900 messages/s on the desk where it does 40 000 without). Without `max_queued_messages 0`
    it drops them while we are away (disk and memory are watched instead)."""
    saving = "autosave_on_changes true\nautosave_interval 1" if keeps_all else f"autosave_interval {SAVE_EVERY_S}"
    return f"""\
listener {port} {host}
user {pwd.getpwuid(os.getuid()).pw_name}
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/topics.acl
persistence true
persistence_location {folder}/
{saving}
persistent_client_expiration 14d
max_queued_messages 0
max_inflight_messages {IN_HAND_MAX}
max_packet_size {PACKET_MAX_BYTES}
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
"""


def _mosquitto_hash(password: Secret) -> str:
    """What mosquitto_passwd writes: `$7$rounds$salt$hash`, PBKDF2 with SHA-512, 64 bytes."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.reveal().encode(), salt, HASH_ROUNDS, 64)
    return f"$7${HASH_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _amqtt_hashes(passwords: Mapping[str, Secret]) -> str:
    from pwdlib.hashers.argon2 import Argon2Hasher  # only the demo broker needs it

    # amqtt checks a hash on its event loop at every connect: the usual 0.1 s each would keep forty devices waiting for
    # four. The passwords are long and random, and the file is as private as those they came from.
    hasher = Argon2Hasher(time_cost=1, memory_cost=1024, parallelism=1)
    return "".join(f"{user}:{hasher.hash(password.reveal())}\n" for user, password in passwords.items())


def _amqtt_config(folder: Path, host: str, port: int, topics: Mapping[str, list[str]]) -> dict[str, object]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {
            "amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(folder / "amqtt.passwords")},
            "amqtt.plugins.topic_checking.TopicAccessControlListPlugin": {"publish_acl": topics, "acl": topics},
        },
    }


async def _serve_amqtt(config: dict[str, object]) -> None:
    """What the amqtt child does, until it is ended."""
    from amqtt.broker import Broker as DemoBroker  # type: ignore[import-untyped]  # amqtt ships no types

    logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # it complains of every probe of its port
    broker = DemoBroker(config)
    broker._subscriptions = _Walkable()  # noqa: SLF001  # see there
    await broker.start()
    await asyncio.Event().wait()


class _Walkable(dict[Any, Any]):
    """A dict that may change while somebody walks over it.

    amqtt 0.12 awaits inside its walks over the subscriptions (broker.py, lines 601 and 1015): a device that comes or goes
    meanwhile made the walk fail, and the session it served hung until the device gave up.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().keys()))

    def items(self) -> Any:
        return list(super().items())


def _write_private(path: Path, text: str) -> None:
    """Mode 0600 from the first byte on, whole or not at all: an empty password after a power cut would keep us from starting."""
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reachable(host: str) -> str:
    """Where we ourselves find a broker that listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # a comparison, nothing is bound


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--amqtt":
        sys.exit("usage: python -m gateway.broker --amqtt CONFIG")
    asyncio.run(_serve_amqtt(json.loads(Path(sys.argv[2]).read_text())))
