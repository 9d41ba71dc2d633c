"""Vehicles and the areas they belong in."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_access")]

    initial = False

    operations = [
        ops.CreateModel(
            name="VehicleRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=128)),
                ("kind", fields.CharField(max_length=32)),
                ("on_duty", fields.BooleanField()),
                ("limit_kmh", fields.FloatField(null=True)),
                ("geofences", fields.TextField(unique=False)),
            ],
            options={
                "table": "vehicle",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "A device that drives. A plate or a driver has no column: the device's name is its fleet number.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="GeofenceRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("number", fields.IntField(unique=True)),
                ("name", fields.CharField(max_length=128)),
                ("rule", fields.CharField(max_length=16)),
                ("corners", fields.TextField(unique=False)),
                ("radius_m", fields.FloatField(null=True)),
            ],
            options={
                "table": "geofence",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "An area on the ground.",
            },
            bases=["Model"],
        ),
    ]
