"""Areas, what sites, points and devices are, and the record of facts."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("registry", "0003_vehicles")]

    initial = False

    operations = [
        ops.CreateModel(
            name="AreaRow",
            fields=[
                ("id", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                ("name", fields.CharField(max_length=128)),
                ("kind", fields.CharField(max_length=16)),
                ("parent", fields.CharField(null=True, max_length=64)),
                ("dwellings", fields.IntField(null=True)),
                ("management", fields.CharField(null=True, max_length=16)),
            ],
            options={
                "table": "area",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "A district, a control zone in it, a community in that.",
            },
            bases=["Model"],
        ),
        ops.AddField(model_name="SiteRow", name="area", field=fields.CharField(null=True, max_length=64)),
        ops.AddField(model_name="SiteRow", name="is_key_unit", field=fields.BooleanField(null=True)),
        ops.AddField(model_name="SiteRow", name="responsible", field=fields.CharField(null=True, max_length=64)),
        ops.AddField(model_name="SiteRow", name="opens", field=fields.CharField(null=True, max_length=10)),
        ops.AddField(model_name="SiteRow", name="closes", field=fields.CharField(null=True, max_length=10)),
        ops.AddField(model_name="DeviceRow", name="kind", field=fields.CharField(null=True, max_length=32)),
        ops.AddField(model_name="DeviceRow", name="vendor", field=fields.CharField(null=True, max_length=64)),
        ops.AddField(model_name="DeviceRow", name="model", field=fields.CharField(null=True, max_length=64)),
        ops.AddField(model_name="DeviceRow", name="parent", field=fields.CharField(null=True, max_length=128)),
        ops.AddField(model_name="PointRow", name="kind", field=fields.CharField(null=True, max_length=32)),
        ops.AddField(model_name="PointRow", name="also", field=fields.TextField(null=True, unique=False)),
        ops.CreateModel(
            name="FactRow",
            fields=[
                ("id", fields.IntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ("sort", fields.CharField(max_length=16)),
                ("subject", fields.TextField(unique=False)),
                ("value", fields.TextField(null=True, unique=False)),
                ("valid_from", fields.BigIntField()),
                ("valid_to", fields.BigIntField(null=True)),
                ("recorded_at", fields.BigIntField()),
                ("actor", fields.CharField(max_length=64)),
                ("withdraws", fields.IntField(null=True)),
                ("key", fields.CharField(null=True, unique=True, max_length=128)),
            ],
            options={
                "table": "fact",
                "app": "registry",
                "pk_attr": "id",
                "table_description": "One fact of the inventory: see gateway/coverage/facts.py.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="CursorRow",
            fields=[
                ("reader", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32)),
                ("seq", fields.BigIntField()),
            ],
            options={
                "table": "cursor",
                "app": "registry",
                "pk_attr": "reader",
                "table_description": "How far a reader of the event log has come.",
            },
            bases=["Model"],
        ),
    ]
