"""Profiles as files: the shipped ones hold, and what is wrong in one is named by line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.coverage.profile_file import profile_from, shipped
from gateway.coverage.requirements import profile_of
from gateway.errors import ConfigError

KINDS = {
    "bank_branch", "jewelry_store", "cash_heavy_unit", "residential_estate", "house_block", "mall", "supermarket", "street_shop",
    "school", "hazardous_store", "construction_site", "vehicle_cash", "vehicle_taxi",
}  # fmt: skip
GOOD = """\
site_kind = "school"
version = "2"
source = "GB/T 29315"

[[requirement]]
point_kind = "duty_room"
measure = "panic"
"""


def test_every_kind_of_site_has_a_sourced_sample() -> None:
    assert {profile.site_kind for profile in shipped()} == KINDS
    assert all(profile.source and profile.version for profile in shipped())


def test_a_profile_is_the_same_behind_a_fact() -> None:
    assert [profile_of(profile.site_kind, profile.value) for profile in shipped()] == shipped()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('"school"', '"School"'), "p.toml:1: site_kind"),
        (('version = "2"\n', ""), "p.toml: version: missing"),
        (('"GB/T 29315"', '""'), "p.toml:3: source"),
        (('"panic"', '"panic"\nquantity = 0'), "p.toml:8: requirement.0.quantity"),
        (('"panic"', '"panic"\nquantity = 101'), "p.toml:8: requirement.0.quantity"),
        (('"panic"', '"panic"\nduty = "wished"'), "p.toml:8: requirement.0.duty"),
        (('"panic"', '"panic"\ndutty = "advised"'), 'did you mean "duty"'),
        (('"panic"', '"fence"\nfamily = "physical"\nnetworking = "must"'), "p.toml:9: requirement.0.networking"),
        (("[[requirement]]", '[[requirement]]\npoint_kind = "duty_room"\nmeasure = "panic"\n[[requirement]]'), "each once"),
        (("[[requirement]]", "[requirement"), "TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_line_and_key(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(GOOD.replace(*change), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        profile_from(path)

    assert complaint in str(caught.value)
