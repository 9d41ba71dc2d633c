"""Who may do what: accounts, their sessions, tokens of programs."""

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]

    initial = False

    operations = [
        ops.CreateModel(
            name="AccountRow",
            fields=[
                ("name", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32)),
                ("role", fields.CharField(max_length=16)),
                ("sites", fields.TextField(null=True, unique=False)),
                ("password", fields.CharField(null=True, max_length=256)),
                ("secret", fields.CharField(null=True, max_length=64)),
                ("secret_until", fields.BigIntField(null=True)),
                ("disabled", fields.BooleanField()),
                ("created", fields.BigIntField()),
            ],
            options={
                "table": "account",
                "app": "registry",
                "pk_attr": "name",
                "table_description": "A person who may log in. The name is the only thing known of them.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="SessionRow",
            fields=[
                ("digest", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=64)),
                (
                    "account",
                    fields.ForeignKeyField(
                        "registry.AccountRow",
                        source_field="account_id",
                        db_constraint=True,
                        to_field="name",
                        related_name="sessions",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("created", fields.BigIntField()),
                ("until", fields.BigIntField()),
            ],
            options={
                "table": "session",
                "app": "registry",
                "pk_attr": "digest",
                "table_description": "A log-in that lasts.",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="TokenRow",
            fields=[
                ("label", fields.CharField(primary_key=True, unique=True, db_index=True, max_length=32)),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("role", fields.CharField(max_length=16)),
                ("sites", fields.TextField(null=True, unique=False)),
                ("created", fields.BigIntField()),
                ("until", fields.BigIntField()),
            ],
            options={
                "table": "token",
                "app": "registry",
                "pk_attr": "label",
                "table_description": "A program that may ask.",
            },
            bases=["Model"],
        ),
    ]
