"""The meaning of codes, held against what each is in the trade: an alarm for somebody's help, a word for 110, an end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from drivers.dc09.codes import CONTACT_ID, SIA, Meaning
from gateway.driver import FACTS, Kind, Lane, Qualifier

ALARMS = [
    (CONTACT_ID, """
        100 101 102 103 110 111 112 113 114 115 116 117 118 120 121 122 123 124 125 126 129 130 131 132 133 134 135 136
        137 138 139 140 141 142 143 144 145 146 147 151 155 158 162 374 423 641 646"""),
    (SIA, "AA BA BG BM BV CM DF DL EA ES EZ FA FG FM GA HA HV JA KA MA ND PA QA RL SA TA UA UG UX UZ XM XS"),
]  # fmt: skip
"""Alarms for police, fire brigade or ambulance."""
TOLD = [
    (CONTACT_ID, "200 201 202 203 204 205 206 316 344 406 465 647 912"),
    (SIA, "AB BC BS CR FC FL FS GS HS KS MS OC OH OL OR PS QS SS US XQ"),
]
"""No alarms, but they concern one that may be under way. Not among them: 606 and LF, which begin a listen-in over the panel's
own telephone line."""
URGENT = [
    (CONTACT_ID, "308 311 317 341 354 373 375 376 381 383 414 415 922 926 954 961"),
    (SIA, "BZ EM FT FW FY FZ GT HT MT PT QT TT UY XX YC YD YM"),
]
"""Protection fails: somebody has to come today."""
ENDS = """
    AN:AS AR:AT AY:AE BE:BD BH:BA BJ:BT BR:BA BU:BB DH:DM DR:DF,DJ EJ:ES EN:EM ER:ET FH:FA FJ:FT FQ:FW FR:FA FU:FB FV:FS
    GH:GA GJ:GT GR:GA GU:GB HH:HA HJ:HT HR:HA HU:HB IR:IA JC:JA KG:RL KH:KA KJ:KT KR:KA KU:KB LR:LT MH:MA MJ:MT MR:MA MU:MB
    NR:NT NS:NA OV:OU PH:PA PJ:PT PO:PF PR:PA PU:PB QH:QA QJ:QT QR:QA QU:QB RG:RL SH:SA SJ:ST SR:SA SU:SB TH:TA TJ:TT
    TR:TA,TT TU:TB UH:UA UJ:UT UR:UA UU:UB VI:VO VR:VT VY:VZ WH:WA WJ:WT WR:WA WU:WB XC:XL XH:XQ XJ:XS XR:XT YE:YD YH:YA
    YJ:YI YK:YC,YS YQ:YP YR:YT,YM YZ:YX ZH:ZA ZJ:ZT ZR:ZA ZU:ZB"""
"""What a SIA code ends. BR and its like also end a trouble; they are taken for the end of the alarm."""


def _each(groups: list[tuple[Mapping[str, Meaning], str]], lane: Lane) -> list[str]:
    """Codes that do not begin something at least as urgent as `lane`, with words for 110."""
    return [
        code
        for table, codes in groups
        for code in codes.split()
        if (facts := FACTS[table[code].kind]).lane > lane
        or facts.contact_id is None
        or table[code].qualifier is not Qualifier.NEW
    ]


@pytest.mark.parametrize(
    ("groups", "lane"),
    [(ALARMS, Lane.ALARM), (TOLD, Lane.FAULT), (URGENT, Lane.FAULT)],
    ids=["alarms", "told", "urgent"],
)
def test_what_somebody_must_hear_of_reaches_110(groups: list[tuple[Mapping[str, Meaning], str]], lane: Lane) -> None:
    assert _each(groups, lane) == []


def test_an_end_opens_nothing_and_ends_what_it_is_for() -> None:
    for pair in ENDS.split():
        end, begins = pair.split(":")
        assert SIA[end].qualifier is Qualifier.RESTORE, end
        for begin in begins.split(","):
            assert SIA[begin].qualifier is Qualifier.NEW, begin
            assert (SIA[begin].kind, SIA[begin].number) == (SIA[end].kind, SIA[end].number), pair
    arms = {
        code
        for code, meaning in SIA.items()
        if meaning.kind is Kind.OPEN_CLOSE and meaning.qualifier is Qualifier.RESTORE
    }
    assert {code for code, m in SIA.items() if m.qualifier is Qualifier.RESTORE} - arms == {
        pair.split(":")[0] for pair in ENDS.split()
    } | {"RR"}  # power up


def test_no_code_of_a_panel_is_the_receivers_own_word_about_its_line() -> None:
    """A good encrypted frame ends that one: it must not end what a panel has said."""
    assert [code for table in (CONTACT_ID, SIA) for code, m in table.items() if m.kind is Kind.SECURITY] == []


def test_a_code_that_nobody_has_named_may_be_an_alarm() -> None:
    assert {CONTACT_ID[str(code)].kind for code in range(750, 790)} == {Kind.UNKNOWN}
    assert FACTS[Kind.UNKNOWN].lane is Lane.ALARM
