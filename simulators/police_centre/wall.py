"""The wall display: the last alarms and what the audit says, as plain ANSI text."""

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any, TextIO

from simulators._clock import Clock
from simulators.police_centre.centre import PoliceCentre
from simulators.police_centre.frames import stamp_seconds
from simulators.police_centre.judge import EVENT, Row

ROWS_MAX = 15
# Five pictures a second is as fast as anybody reads, and bounds what a storm of alarms costs.
REDRAW_S = 0.2
BEIJING = timezone(timedelta(hours=8))
_HOME_AND_CLEAR, _RED, _GREY, _PLAIN = "\x1b[H\x1b[2J", "\x1b[31m", "\x1b[90m", "\x1b[0m"

# The commonest Contact ID codes: Chinese, English.
KINDS: dict[str, tuple[str, str]] = {
    "100": ("医疗求助", "medical"),
    "101": ("个人紧急求助", "personal emergency"),
    "110": ("火警", "fire"),
    "111": ("烟感火警", "smoke"),
    "114": ("温感火警", "heat"),
    "115": ("手动火灾报警按钮", "pull station"),
    "120": ("紧急报警", "panic"),
    "121": ("胁迫报警", "duress"),
    "122": ("无声劫持报警", "silent hold-up"),
    "123": ("有声劫持报警", "audible hold-up"),
    "130": ("盗警", "burglary"),
    "131": ("周界报警", "perimeter"),
    "132": ("内部防区盗警", "interior burglary"),
    "133": ("24小时防区盗警", "24-hour burglary"),
    "134": ("出入防区盗警", "entry/exit burglary"),
    "136": ("室外防区盗警", "outdoor burglary"),
    "137": ("布防状态防拆报警", "tamper while armed"),
    "139": ("入侵报警已复核", "intrusion confirmed"),
    "140": ("一般报警", "general alarm"),
    "144": ("探测器防拆报警", "detector tamper"),
    "146": ("无声盗警", "silent burglary"),
    "151": ("燃气泄漏报警", "gas"),
    "154": ("漏水报警", "water leak"),
    "158": ("高温报警", "high temperature"),
    "162": ("一氧化碳报警", "carbon monoxide"),
    "301": ("交流电断电", "mains loss"),
    "302": ("主机电池电压低", "battery low"),
    "344": ("无线干扰(阻塞)", "radio jamming"),
    "350": ("通信故障", "communication trouble"),
    "354": ("事件上报失败", "failed to communicate"),
    "380": ("探测器故障", "detector trouble"),
    "381": ("无线探测器失联", "detector lost"),
    "384": ("无线探测器电池电压低", "detector battery low"),
    "401": ("用户撤防/布防", "open/close"),
    "406": ("用户取消报警", "cancel"),
    "421": ("门禁拒绝通行", "access denied"),
    "423": ("强行开门", "forced door"),
    "426": ("门长时间未关", "door propped open"),
    "570": ("防区旁路", "zone bypass"),
    "602": ("定期测试", "periodic test"),
}
_WORDS = {
    "zh": {
        "title": "110 接警中心(模拟)",
        "head": ("时间", "账号", "警情", "防区", "内容"),
        "unknown": "未知",
        3: "恢复 ",
        6: "持续 ",
        "test": "【测试】",
        "copy": "(重发)",
        "answers": "应答",
        "audit": "审计: 接收 {accepted}  线路重发 {wire_repeats}"
        "  换号重复 {new_key_duplicates}  一号两警 {reused_keys}",
    },
    "en": {
        "title": "110 receiving centre (simulated)",
        "head": ("time", "account", "alarm", "zone", "text"),
        "unknown": "unknown",
        3: "restore ",
        6: "still ",
        "test": "[TEST]",
        "copy": "(repeat)",
        "answers": "answers",
        "audit": "audit: accepted {accepted}  wire repeats {wire_repeats}"
        "  duplicates under a new key {new_key_duplicates}  reused keys {reused_keys}",
    },
}
LANGUAGES = tuple(_WORDS)
_WIDTHS = (15, 12, 28, 5, 40)


def kind_text(row: Row, lang: str) -> str:
    """The alarm's name with restore or still-present before it; 未知(xxx) for a code outside the table."""
    words: Any = _WORDS[lang]
    code = row.code or ""
    name = KINDS[code][LANGUAGES.index(lang)] if code in KINDS else f"{words['unknown']}({code})"
    return f"{words.get(row.qualifier, '')}{name}"


def drawn(rows: Sequence[Row], answers: Mapping[str, int], audit: Mapping[str, Any], lang: str) -> str:
    """One picture of the wall: newest alarm first, then the counts."""
    words: Any = _WORDS[lang]
    lines = [words["title"], _columns(words["head"])]
    for row in rows[:ROWS_MAX]:
        marks = (words["test"] if row.test else "") + (words["copy"] if row.copy else "")
        text = marks + (row.text or "")
        line = _columns((_when(row), row.account or "", kind_text(row, lang), row.zone or "", text))
        colour = _GREY if row.test or row.copy else _RED if row.qualifier == 1 and row.code and row.code < "200" else ""
        lines.append(f"{colour}{line}{_PLAIN}" if colour else line)
    lines.append(f"{words['answers']}: " + "  ".join(f"{name} {count}" for name, count in sorted(answers.items())))
    lines.append(words["audit"].format(**audit))
    return "\n".join(lines)


async def show(centre: PoliceCentre, out: TextIO, clock: Clock, lang: str) -> None:
    """Redraw the wall whenever something came in; runs until cancelled."""
    while True:
        alarms = list(islice(filter(_is_shown, reversed(centre.received)), ROWS_MAX))
        out.write(_HOME_AND_CLEAR + drawn(alarms, centre.answers, centre.audit.summary(), lang) + "\n")
        out.flush()
        await centre.changed()
        await clock.sleep(REDRAW_S)


def _when(row: Row) -> str:
    """Time of occurrence, of arrival when the frame has none; a clock of the year 9999 shows as dashes."""
    at = stamp_seconds(row.h) if row.h else None
    try:
        return datetime.fromtimestamp(row.t if at is None else at, BEIJING).strftime("%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return "--"


def _is_shown(row: Row) -> bool:
    """An event the desk has; what was refused never reached it."""
    return row.token == EVENT and row.code is not None and row.answer not in {"NAK", "DUH"}


def _columns(cells: Sequence[str]) -> str:
    return " ".join(_fitted(cell, width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _fitted(text: str, width: int) -> str:
    """Cut or filled to so many terminal columns; what comes off the wire must not steer the terminal."""
    kept, used = "", 0
    for character in text:
        shown = character if character.isprintable() else "\N{MIDDLE DOT}"
        columns = 2 if unicodedata.east_asian_width(shown) in "WF" else 1
        if used + columns > width:
            break
        kept, used = kept + shown, used + columns
    return kept + " " * (width - used)
