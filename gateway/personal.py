"""What may be kept about people, and where: the one list. A field of any schema that is not in it fails the tests.

There is no field for a name, an identity number, a face, a fingerprint, a household or a visitor, and none may be added:
what a duty officer needs to know stands at the place (`docs/privacy.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for all fields of a class."""

    what: str
    kept: str
    leaves: str


class Matter(Enum):
    """The classes."""

    THING = Rule("devices, lines, times, states: no person", "as the table it stands in", "wherever its event goes")
    PLACE = Rule(
        "where a protection point is, and the call-back role and phone of its site; never a resident's name",
        "ledger: until a person removes it; in events: [store] retention_days", "to 110 with an alarm, to the API; never to metrics",
    )  # fmt: skip
    CREDENTIAL = Rule(
        "a card or code, as a keyed hash of this box", "[store] retention_days; not linkable across a rotation of the key",
        "to the API and to destinations that ask for the status lane; never to metrics; nothing can be searched by it",
    )  # fmt: skip
    USER_NUMBER = Rule(
        "the number a panel or keypad gives its user; who that is, is not known here", "[store] retention_days",
        "with its event",
    )  # fmt: skip
    POSITION = Rule(
        "where an enrolled vehicle on duty, or a fixed device, is; no driver",
        "[store] retention_days",
        "with its event",
    )
    STAFF = Rule(
        "the account of somebody who works with the gateway, and what was done under it",
        "accounts: until removed; audit and commands: as their tables", "to the API, for those whose role may see it",
    )  # fmt: skip
    SECRET = Rule("a hash or key of an account", "until replaced", "never")
    WORDS = Rule(
        "text a device or an officer wrote; nobody may write a name into it",
        "as the table it stands in",
        "with its event",
    )
    RAW = Rule(
        "bytes as they came, which may hold what a device was told to send", "with its event; refused frames: the newest of a bound",
        "to the API; to no destination and no metric",
    )  # fmt: skip


FORBIDDEN = (
    "person", "surname", "identity", "id_card", "id_number", "face", "finger", "biometric", "birth", "gender", "ethnic", "household",
    "visitor", "plate", "resident", "photo", "image", "video", "audio", "driver_name", "holder", "card_number", "pin",
)  # fmt: skip
"""No field may have a name with one of these in it, declared or not. (A word of a longer one, by underscores.)"""

OWN: Mapping[str, Matter] = {
    "site.name": Matter.PLACE, "point.name": Matter.PLACE, "device.name": Matter.PLACE, "geofence.name": Matter.PLACE,
    "account.name": Matter.STAFF, "token.label": Matter.STAFF,
    "area.name": Matter.PLACE, "fact.key": Matter.THING, "fact.subject": Matter.THING,
    "values.key": Matter.THING,  # which button of a radio sensor or remote
    "session.digest": Matter.SECRET, "token.digest": Matter.SECRET,
}  # fmt: skip
"""Where a name means something else in one schema than elsewhere; looked up first, as `schema.field`."""


def _all(matter: Matter, names: str) -> dict[str, Matter]:
    return dict.fromkeys(names.split(), matter)


DECLARED: Mapping[str, Matter] = {
    **_all(Matter.PLACE, "address latitude longitude contact responsible site_name point_name corners radius_m"),
    **_all(Matter.CREDENTIAL, "credential"),
    **_all(Matter.USER_NUMBER, "user"),
    **_all(Matter.POSITION, "position speed_kmh course altitude_m mileage_km recorder_kmh accuracy_m tracker"),
    **_all(Matter.STAFF, "who whom by rectified_by issuer role sites disabled account_id actor permissions"),
    **_all(Matter.SECRET, "password secret new"),
    **_all(Matter.WORDS, "text reason detail details subject room body values verification remark because"),
    **_all(Matter.RAW, "raw items_rest item_05 item_e1 io_bits"),
    **_all(
        Matter.THING,
        "id seq n one device site kind qualifier lane zone received_ms received_at repeat_key key_is_reused at code test "
        "destination state account number accepted_ms accepted_at last at_ms deadline_ms deadline silent connection clean "
        "ballast app name applied_at site_id device_id heard_within_s created until secret_until on_duty limit_kmh geofences "
        "rule point driver device_time time_quality place suppressed_by boot event valid_s valid_max_s evidence_s zh en "
        "seconds needs_zone needs_until act command created_at taken sent_at ended_at momentary contact_id items next "
        "kind_zh kind_en clock claimed last_heard configured forwarder up backlog oldest dead seqs since added removed "
        "replaced outcome sha256 connections destinations settings type title status errors queued busy instance "
        "running known ends sheet minutes points whole recorded now created_ms deed hash previous head rows fault withheld",
    ),
    # What is counted: areas, what things are, and the record of facts about them.
    **_all(
        Matter.THING,
        "area dwellings management parent is_key_unit opens closes vendor also sort valid_from valid_to recorded_at "
        "withdraws reader",
    ),
    **_all(
        Matter.THING,
        "about children counts coverage gaps stage "
        "node closed due gap is_overdue opened rectified risk times told duty family gap_since measure via "
        "parents site_kind point_kind deficiency required waived installed working degraded networked must_network unsupervised overdue",
    ),
    # What drivers put beside an observation, in `values`.
    **_all(
        Matter.THING,
        "account_in_data action_source age_s alarm_bits alarm_event also_open analogue antenna area_id area_kind area_out assurance "
        "battery battery_low battery_ok battery_pct bits channel cmd coding count data_rate denials dimensions door_open duress exception "
        "firmware fix format frame_count fuel_l hdop ignition late linkquality locked lost margin_db medium mode model noise_dbm of "
        "overspeed_id overspeed_kind panel_date panel_time partition pdop quality reader region "
        "rf_key rssi_dbm satellites section_id section_s section_too_long signal signal_bits status_bits tamper trigger tristate "
        "unit value voltage voltage_mv waiting",
    ),
}
"""Every other field of every schema, by its name."""


def matter_of(schema: str, field: str) -> Matter | None:
    """The class of a field; None when nobody has declared it."""
    return OWN.get(f"{schema}.{field}") or DECLARED.get(field)
