"""The newest fact of each subject without a look at the others: some are asked for every minute."""

from tortoise import migrations
from tortoise.indexes import Index
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("registry", "0004_coverage")]

    initial = False

    operations = [
        ops.AddIndex(model_name="FactRow", index=Index(fields=("sort", "subject", "withdraws"), name="fact_newest"))
    ]
