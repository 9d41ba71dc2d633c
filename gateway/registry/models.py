"""The ledger's tables. They hold places, things and those who may ask; no column has room for a resident."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


class AreaRow(Model):
    """A district, a control zone in it, a community in that."""

    id = fields.CharField(max_length=64, primary_key=True)
    name = fields.CharField(max_length=128)
    kind = fields.CharField(max_length=16)
    parent = fields.CharField(max_length=64, null=True)
    dwellings = fields.IntField(null=True)
    management = fields.CharField(max_length=16, null=True)

    class Meta:
        table = "area"


class SiteRow(Model):
    """A place that answers for itself towards 110."""

    id = fields.CharField(max_length=64, primary_key=True)
    name = fields.CharField(max_length=128)
    account = fields.CharField(max_length=16, unique=True)
    kind = fields.CharField(max_length=32)
    address = fields.CharField(max_length=256)
    latitude = fields.FloatField(null=True)
    longitude = fields.FloatField(null=True)
    contact = fields.CharField(max_length=64)
    area = fields.CharField(max_length=64, null=True)
    is_key_unit = fields.BooleanField(null=True)
    responsible = fields.CharField(max_length=64, null=True)
    """A role and its phone."""
    opens = fields.CharField(max_length=10, null=True)
    closes = fields.CharField(max_length=10, null=True)
    """Days (YYYY-MM-DD) of a site that is there for a time."""

    class Meta:
        table = "site"


class DeviceRow(Model):
    """Something that reports."""

    id = fields.CharField(max_length=128, primary_key=True)
    site: fields.ForeignKeyRelation[SiteRow] = fields.ForeignKeyField(
        "registry.SiteRow", related_name="devices", on_delete=fields.RESTRICT
    )
    name = fields.CharField(max_length=128)
    heard_within_s = fields.FloatField(null=True)
    kind = fields.CharField(max_length=32, null=True)
    vendor = fields.CharField(max_length=64, null=True)
    model = fields.CharField(max_length=64, null=True)
    parent = fields.CharField(max_length=128, null=True)
    """The device through which alone it is heard."""

    class Meta:
        table = "device"


class PointRow(Model):
    """A protection point: the smallest thing that is counted."""

    id = fields.CharField(max_length=64, primary_key=True)
    site: fields.ForeignKeyRelation[SiteRow] = fields.ForeignKeyField(
        "registry.SiteRow", related_name="points", on_delete=fields.RESTRICT
    )
    number = fields.IntField()
    name = fields.CharField(max_length=128)
    device: fields.ForeignKeyNullableRelation[DeviceRow] = fields.ForeignKeyField(
        "registry.DeviceRow", related_name="points", on_delete=fields.RESTRICT, null=True
    )
    zone = fields.IntField(null=True)
    kind = fields.CharField(max_length=32, null=True)
    also = fields.TextField(null=True)
    """Further watchers as JSON: [[device, zone or null], ...]."""

    class Meta:
        table = "point"
        unique_together = (("site", "number"), ("device", "zone"))


class VehicleRow(Model):
    """A device that drives. A plate or a driver has no column: the device's name is its fleet number."""

    id = fields.CharField(max_length=128, primary_key=True)
    """Of its device."""
    kind = fields.CharField(max_length=32)
    on_duty = fields.BooleanField()
    limit_kmh = fields.FloatField(null=True)
    geofences = fields.TextField()
    """Ids, separated by blanks."""

    class Meta:
        table = "vehicle"


class GeofenceRow(Model):
    """An area on the ground."""

    id = fields.CharField(max_length=64, primary_key=True)
    number = fields.IntField(unique=True)
    name = fields.CharField(max_length=128)
    rule = fields.CharField(max_length=16)
    corners = fields.TextField()
    """Latitude and longitude with a blank between, corners separated by ';'."""
    radius_m = fields.FloatField(null=True)

    class Meta:
        table = "geofence"


class AccountRow(Model):
    """A person who may log in. The name is the only thing known of them."""

    name = fields.CharField(max_length=32, primary_key=True)
    role = fields.CharField(max_length=16)
    sites = fields.TextField(null=True)
    """Separated by blanks; null: all."""
    password = fields.CharField(max_length=256, null=True)
    """Argon2id; null until the one-time secret was exchanged."""
    secret = fields.CharField(max_length=64, null=True)
    """SHA-256 of the one-time secret."""
    secret_until = fields.BigIntField(null=True)
    """Unix time, as all moments here."""
    disabled = fields.BooleanField()
    created = fields.BigIntField()

    class Meta:
        table = "account"


class SessionRow(Model):
    """A log-in that lasts."""

    digest = fields.CharField(max_length=64, primary_key=True)
    account: fields.ForeignKeyRelation[AccountRow] = fields.ForeignKeyField(
        "registry.AccountRow", related_name="sessions", on_delete=fields.CASCADE
    )
    created = fields.BigIntField()
    until = fields.BigIntField()

    class Meta:
        table = "session"


class TokenRow(Model):
    """A program that may ask."""

    label = fields.CharField(max_length=32, primary_key=True)
    digest = fields.CharField(max_length=64, unique=True)
    role = fields.CharField(max_length=16)
    sites = fields.TextField(null=True)
    created = fields.BigIntField()
    until = fields.BigIntField()

    class Meta:
        table = "token"


class FactRow(Model):
    """One fact of the inventory: see gateway/coverage/facts.py."""

    id = fields.IntField(primary_key=True)
    sort = fields.CharField(max_length=16)
    subject = fields.TextField()
    """As a JSON list."""
    value = fields.TextField(null=True)
    """As JSON."""
    valid_from = fields.BigIntField()
    """Unix time in milliseconds, as the other moments of this table."""
    valid_to = fields.BigIntField(null=True)
    recorded_at = fields.BigIntField()
    actor = fields.CharField(max_length=64)
    withdraws = fields.IntField(null=True)
    key = fields.CharField(max_length=128, null=True, unique=True)

    class Meta:
        table = "fact"
        indexes = (Index(fields=("sort", "subject", "withdraws"), name="fact_newest"),)


class CursorRow(Model):
    """How far a reader of the event log has come."""

    reader = fields.CharField(max_length=32, primary_key=True)
    seq = fields.BigIntField()

    class Meta:
        table = "cursor"
