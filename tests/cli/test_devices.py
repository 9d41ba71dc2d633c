"""The ledger from the command line: what is typed in wrong is named by row and column, what is right can be typed twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random

import pytest

from gateway.__main__ import main
from gateway.clock import RealClock
from gateway.ids import EventIds
from gateway.model import Event, Heard, Kind, Lane, Qualifier
from gateway.store import Entry
from gateway.store.sqlite import SqliteStore

AT = datetime(2027, 1, 15, 8, 30, tzinfo=UTC)
HEADER = "site,device,device_name,heard_within_s,point,number,point_name,zone\n"
GOOD = HEADER + (
    "s1,panel-1,东门主机,600,p-05,5,东围墙,3\n"
    "s1,panel-1,东门主机,600,p-06,6,东门,\n"
    "s1,button-1,,,,,,\n"
    "s1,,,,p-07,7,尚未安装,\n"
)  # fmt: skip

Fangkong = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fangkong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fangkong:
    """Runs a command on a box of its own that has one site, and returns its exit code and what it said."""
    (tmp_path / "site.toml").write_text("[api]\nlisten = '127.0.0.1:9'\n")

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words), "--config", str(tmp_path / "site.toml")])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert run("site", "add", "s1", "--name", "玉山三期", "--account", "1a2b")[0] == 0
    return run


def hear(tmp_path: Path, *devices: str) -> None:
    """A daemon ran here and heard them."""

    async def listen() -> None:
        store = await SqliteStore.open(tmp_path / "var", RealClock())
        await store.heard([Heard(device, AT, None) for device in devices])
        event_id = EventIds(RealClock(), Random(1)).next()
        event = Event(event_id, devices[0], Kind.PANIC, Qualifier.NEW, Lane.LIFE, AT, "test", "c1")
        await (await store.append([Entry(event)]))
        await store.close()

    asyncio.run(listen())


def devices(fangkong: Fangkong, *words: str) -> list[str]:
    return [row["id"] for row in json.loads(fangkong("device", "list", "--json", *words)[1])]


# -- import ------------------------------------------------------------------------------------------------------------


def test_an_import_adds_and_the_same_again_changes_nothing(tmp_path: Path, fangkong: Fangkong) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(GOOD)

    assert fangkong("device", "import", file, "--dry-run") == (
        0,
        "5 would be added, 0 would be updated, 0 unchanged\n",
        "",
    )
    assert devices(fangkong) == []
    assert fangkong("device", "import", file) == (0, "5 added, 0 updated, 0 unchanged\n", "")
    assert devices(fangkong) == ["button-1", "panel-1"]
    assert fangkong("device", "import", file) == (0, "0 added, 0 updated, 5 unchanged\n", "")
    file.write_text(GOOD.replace("东围墙", "西围墙"))
    assert fangkong("device", "import", file) == (0, "0 added, 1 updated, 4 unchanged\n", "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_what_a_chinese_spreadsheet_writes_is_understood(tmp_path: Path, fangkong: Fangkong, encoding: str) -> None:
    (tmp_path / "devices.csv").write_bytes(GOOD.replace("\n", "\r\n").encode(encoding))
    fangkong("device", "import", tmp_path / "devices.csv")

    assert json.loads(fangkong("device", "show", "panel-1", "--json")[1])["name"] == "东门主机"


@pytest.mark.parametrize(
    ("row", "where", "expected", "zh"),
    [
        (",d2,,,,,,", "2: column site", "a site id", "不能为空"),
        ("s1,,,,,,,", "2: column device", "a device, a point or both", "不能都为空"),
        ("s9,d2,,,,,,", "2: column site", "a site (fangkong site list)", "场所不存在"),
        ("s1,d2,,soon,,,,", "2: column heard_within_s", "a number", "应为数字"),
        ("s1,d2,,0,,,,", "2: column heard_within_s", "more than 0", "超出范围"),
        ("s1,d2,,,p2,,,", "2: column number", "0 to 999", "不能为空"),
        ("s1,d2,,,p2,1.5,,", "2: column number", "a whole number", "应为整数"),
        ("s1,d2,,,p2,1000,,", "2: column number", "0 to 999", "0至999"),
        ("s1,d2,,,,5,,", "2: column point", "a point id", "缺少点位编号"),
        ("s1,d2,,,p 2,5,,", "2: column point", "1 to 64 of", "编号应为"),
        ("s1,d2,,,p2,5,,65536", "2: column zone", "0 to 65535", "防区号"),
        ("s1,d2,,,p2,5,,\ns1,d2,,,p3,5,,1", "3: column number", "one of its own", "已被占用"),
        ("s1,d2,name,,,,,\ns1,d2,other,,,,,", "3: column device", "the same in every row", "须一致"),
        ("s1,d2", "2: column zone", "8 cells", "列数不符"),
        ("s1,d2,,,,,,,,", "2: column zone", "8 cells", "列数不符"),
        ('s1,"d2,,,,,,', "2: column (row)", "comma-separated values", "CSV"),
    ],
)
def test_a_mistake_is_named_by_row_and_column_in_both_languages(
    tmp_path: Path, fangkong: Fangkong, *, row: str, where: str, expected: str, zh: str
) -> None:
    (tmp_path / "devices.csv").write_text(HEADER + row + "\n")
    code, said, complaint = fangkong("device", "import", tmp_path / "devices.csv")

    assert (code, said) == (2, "")
    assert any(
        f"devices.csv:{where}:" in line and expected in line and zh in line for line in complaint.splitlines()
    ), complaint
    assert devices(fangkong) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "1: column site: missing"),
        (b"site,device,owner_phone\n", "1: column owner_phone: unknown column"),
        (b"\xff\xfe\x00\x81", "neither UTF-8 nor GB 18030"),
    ],
)
def test_a_file_that_is_no_device_list_is_refused(
    tmp_path: Path, fangkong: Fangkong, content: bytes, complaint: str
) -> None:
    (tmp_path / "devices.csv").write_bytes(content)
    code, _, said = fangkong("device", "import", tmp_path / "devices.csv")

    assert code == 2
    assert complaint in said


def test_length_and_complaints_are_bounded(tmp_path: Path, fangkong: Fangkong, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "devices.csv").write_text(HEADER + "s9,d,,,,,,\n" + "".join(f"s9,d{n},,,,,,\n" for n in range(300)))
    assert len(fangkong("device", "import", tmp_path / "devices.csv")[2].splitlines()) == 200
    monkeypatch.setattr("gateway.cli._device_csv.FILE_MAX_BYTES", 1000)

    assert "at most 1000 bytes" in fangkong("device", "import", tmp_path / "devices.csv")[2]


def test_mistakes_can_be_read_by_a_machine(tmp_path: Path, fangkong: Fangkong) -> None:
    (tmp_path / "devices.csv").write_text(HEADER + "s9,d2,,,,,,\n")
    code, said, _ = fangkong("device", "import", tmp_path / "devices.csv", "--json")

    assert code == 2
    assert json.loads(said)["problems"][0]["line"] == 2


# -- one by one --------------------------------------------------------------------------------------------------------


def test_a_device_is_added_once_with_its_point(fangkong: Fangkong) -> None:
    words = ("device", "add", "d1", "--site", "s1", "--point", "p1", "--number", "5", "--zone", "3")

    assert fangkong(*words)[0] == 0
    assert json.loads(fangkong("device", "show", "d1", "--json")[1])["points"][0]["number"] == 5
    code, _, complaint = fangkong(*words)
    assert code == 2
    assert "is there already" in complaint
    assert fangkong("device", "add", "d2", "--site", "s1", "--zone", "3")[0] == 2
    assert fangkong("device", "add", "d2", "--site", "s1", "--point", "p2")[0] == 2
    assert fangkong("device", "show", "nobody")[0] == 1


def test_the_second_device_of_a_point_shows_the_point_too(tmp_path: Path, fangkong: Fangkong) -> None:
    lines = ["table,id,site,number,device", "device,d1,s1,,", "device,d2,s1,,", "point,p1,s1,1,d1", "point,p1,s1,1,d2"]
    (tmp_path / "two.csv").write_text("\n".join(lines), "utf-8")
    assert fangkong("inventory", "import", tmp_path / "two.csv")[0] == 0

    assert [each["id"] for each in json.loads(fangkong("device", "show", "d2", "--json")[1])["points"]] == ["p1"]


def test_a_device_that_reports_can_be_claimed_and_a_misspelt_one_cannot(tmp_path: Path, fangkong: Fangkong) -> None:
    hear(tmp_path, "zigbee-0815", "known")
    fangkong("device", "add", "known", "--site", "s1")
    assert devices(fangkong, "--unclaimed") == ["zigbee-0815"]

    code, _, complaint = fangkong("device", "claim", "zigbee-0816", "--site", "s1")
    assert code == 2
    assert 'did you mean "zigbee-0815"?' in complaint
    assert fangkong("device", "claim", "zigbee-0815", "--site", "s1")[0] == 0
    assert devices(fangkong, "--unclaimed") == []
    assert devices(fangkong) == ["known", "zigbee-0815"]


def test_a_site_needs_its_account(fangkong: Fangkong) -> None:
    code, _, complaint = fangkong("site", "add", "s2", "--name", "x", "--account", "12")

    assert code == 2
    assert "3 to 16 hex digits" in complaint
    assert [site["account"] for site in json.loads(fangkong("site", "list", "--json")[1])] == ["1A2B"]


def test_a_broken_site_file_is_exit_code_2(tmp_path: Path, fangkong: Fangkong) -> None:
    (tmp_path / "site.toml").write_text("[gateway]\nnmae = 'x'\n")

    assert fangkong("device", "list")[0] == 2


# -- tail and migrate --------------------------------------------------------------------------------------------------


def test_without_a_daemon_tail_shows_the_last_of_the_log(tmp_path: Path, fangkong: Fangkong) -> None:
    hear(tmp_path, "d1")
    code, said, complaint = fangkong("tail", "--json")

    assert code == 0
    assert json.loads(said)["kind"] == "panic"
    assert "no daemon answers" in complaint
    assert fangkong("tail", "--lane", "fault")[1] == ""
    assert "unclaimed 未登记" in fangkong("tail", "--lane", "life")[1]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (401, 2), (500, 1)])
def test_tail_follows_the_daemons_stream(tmp_path: Path, fangkong: Fangkong, status: int, code: int) -> None:
    event = {"received_at": "x", "kind": "fire", "qualifier": "new", "lane": "life", "device": "d1", "claimed": False}

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name the standard library calls
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b": hello\n\nid: 1\ndata: " + json.dumps(event).encode() + b"\n\n")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stream) as daemon:
        serving = threading.Thread(target=daemon.handle_request)
        serving.start()
        (tmp_path / "site.toml").write_text(f"[api]\nlisten = '127.0.0.1:{daemon.server_port}'\n")
        result, said, _ = fangkong("tail", "--json")
        serving.join()

    assert result == code
    assert ('"kind": "fire"' in said) is (code == 0)


def test_migrate_says_what_it_did_and_refuses_beside_a_daemon(tmp_path: Path, fangkong: Fangkong) -> None:
    (tmp_path / "var" / "registry.db").unlink()

    assert "0001_initial" in fangkong("migrate")[1]
    assert json.loads(fangkong("migrate", "--json")[1]) == {"ok": True, "registry": [], "salvaged": None}

    async def beside() -> tuple[int, str, str]:
        store = await SqliteStore.open(tmp_path / "var", RealClock())
        try:
            return await asyncio.to_thread(fangkong, "migrate")
        finally:
            await store.close()

    # `main` sets a signal handler, which only the main thread may do; the lock is what is asked about here.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.__main__.signal.signal", lambda *_: None)
        assert asyncio.run(beside())[0] == 1
