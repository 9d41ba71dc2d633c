"""The ledger's tables. They hold places, things and those who may ask; no column has room for a resident."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


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
