"""What is put right first: one order for gaps and for deficiencies, wherever they are listed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gateway.coverage.history import EVER
from gateway.coverage.requirements import Duty, Family
from gateway.coverage.tickets import TARGET, Risk, Ticket
from gateway.coverage.verdict import Gap, Verdict

SITE_ORDER = (
    "bank_vault", "bank_branch", "self_service_bank", "vehicle_cash", "jewelry_store", "cash_heavy_unit", "hazardous_store",
    "key_unit_other", "school", "kindergarten", "mall", "supermarket", "street_shop", "residential_estate", "house_block",
    "construction_site", "vehicle_taxi",
)  # fmt: skip
"""What is worth most to a robber, then where most people are."""
GAP_ORDER = (
    TARGET, Gap.NOT_PLANNED, Gap.NOT_INSTALLED, Gap.OUT_OF_SERVICE, Gap.BYPASSED, Gap.SILENT, Gap.FAULT, Gap.UNREACHABLE,
    Gap.UNTESTED, Gap.NOT_ACCEPTED, Gap.INSPECTION_FAILED, Gap.NOT_INSPECTED, Gap.NOT_NETWORKED,
)  # fmt: skip
"""Nothing is there; it is switched off; it is dumb; nobody knows whether it works; it works, and 110 cannot hear it."""
PANIC = "panic"
"""The measure that is of high risk anywhere."""
_SITE_RANK = {kind: rank for rank, kind in enumerate(SITE_ORDER)}
_GAP_RANK = {str(gap): rank for rank, gap in enumerate(GAP_ORDER)}
_RISK_RANK = {risk: rank for rank, risk in enumerate(Risk)}


def risk_of(verdict: Verdict, site: Mapping[str, Any], target_kinds: Collection[str]) -> Risk:
    """Of what is missing: high, medium or low."""
    if verdict.family is Family.PHYSICAL or verdict.duty is Duty.ADVISED:
        return Risk.LOW
    if site.get("is_key_unit") or verdict.site_kind in target_kinds or verdict.measure == PANIC:
        return Risk.HIGH
    return Risk.MEDIUM


def place_of(site: Mapping[str, Any]) -> int:
    """A site's place among the others, by what its fact says; a key unit's is at least that of key units."""
    place = _SITE_RANK.get(site.get("kind", ""), len(SITE_ORDER))
    return min(place, _SITE_RANK["key_unit_other"]) if site.get("is_key_unit") else place


def order(verdict: Verdict, site: Mapping[str, Any], risk: Risk) -> tuple[object, ...]:
    """Of gaps: risk, kind of site, duty, gap, age; at last the names, so that the same facts give the same list."""
    since = EVER if verdict.since is None else verdict.since
    is_advised, of_gap = verdict.duty is Duty.ADVISED, _GAP_RANK[str(verdict.gap)]
    return _RISK_RANK[risk], place_of(site), is_advised, of_gap, since, verdict.site, verdict.point, verdict.measure


def ticket_order(ticket: Ticket, site: Mapping[str, Any]) -> tuple[object, ...]:
    """Of deficiencies, the same: risk, kind of site, gap, age."""
    return _RISK_RANK[ticket.risk], place_of(site), _GAP_RANK[ticket.gap], ticket.opened, ticket.id
