"""The first ledger: sites, devices, points."""

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="SiteRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("name", fields.CharField(max_length=128)),
                ("account", fields.CharField(unique=True, max_length=16)),
                ("kind", fields.CharField(max_length=32)),
                ("address", fields.CharField(max_length=256)),
                ("latitude", fields.FloatField(null=True)),
                ("longitude", fields.FloatField(null=True)),
                ("contact", fields.CharField(max_length=64)),
            ],
            options={
                "table": "site",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "A place that answers for itself towards 110.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="DeviceRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=128)),
                (
                    "site",
                    fields.ForeignKeyField(
                        "registry.SiteRow",
                        source_field="site_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="devices",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("name", fields.CharField(max_length=128)),
                ("heard_within_s", fields.FloatField(null=True)),
            ],
            options={
                "table": "device",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "Something that reports.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="PointRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                (
                    "site",
                    fields.ForeignKeyField(
                        "registry.SiteRow",
                        source_field="site_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="points",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("number", fields.IntField()),
                ("name", fields.CharField(max_length=128)),
                (
                    "device",
                    fields.ForeignKeyField(
                        "registry.DeviceRow",
                        source_field="device_id",
                        null=True,
                        db_constraint=True,
                        to_field="id",
                        related_name="points",
                        on_delete=OnDelete.RESTRICT,
                    ),
                ),
                ("zone", fields.IntField(null=True)),
            ],
            options={
                "table": "point",
                "app": "registry",
                "unique_together": (("site", "number"), ("device", "zone")),
                "pk_attr": "id",
                "table_description": "A protection point: the smallest thing that is counted.",
            },
            bases=["Model"],
        ),
    ]
