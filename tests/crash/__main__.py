"""Kill the gateway under load and strike a balance."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from gateway import logs
from tests.crash import kills
from tests.crash.town import Town

BAR = 40


def main() -> int:
    """0 when nothing acknowledged was lost and nothing was doubled, under full load."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=110)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep ledger, record and log there")
    options = parser.parse_args()
    logs.set_up("error")
    print(f"seed {options.seed}: {options.kills} kills at {kills.EVENTS_PER_S} events a second", flush=True)

    def tell(count: int, place: Town) -> None:
        done = BAR * count // options.kills
        ledger = place.world.ledger
        bar = f"[{'#' * done:{BAR}}] {count}/{options.kills}"
        print(
            f"\r{bar}  raised {ledger.raised_count}, acknowledged {ledger.acknowledged_count}", end="", file=sys.stderr
        )

    with tempfile.TemporaryDirectory(prefix="fangkong-crash-") as temporary:
        folder: Path = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(kills.run(folder, kills=options.kills, seed=options.seed, tell=tell))
    print(file=sys.stderr)
    print(report.table())
    if not report.is_good:
        print(f"FAILED: {report.audit.missing[:10]}")
        return 1
    if report.acknowledged_per_s < kills.ACKNOWLEDGED_PER_S:
        print(f"nothing lost, nothing doubled, but under too little load: expected {kills.ACKNOWLEDGED_PER_S} a second")
        return 1
    print("nothing lost, nothing doubled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
