"""Many seeds, or one with its story told: see scripts/sim."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.sim import swarm
from tests.sim.scenario import run
from tests.sim.siege import besiege


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/sim", description="Simulate seeded networks.")
    parser.add_argument(
        "what",
        nargs="?",
        default="networks",
        choices=["networks", "swarm"],
        help="whole networks, or one download from many sources",
    )
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--start", type=int, default=0, metavar="S", help="the first seed (0)")
    parser.add_argument("--nodes", type=int, metavar="M", help="nodes in each network: 3 to 50")
    parser.add_argument("--steps", type=int, default=25, metavar="K", help="events of each (25)")
    parser.add_argument("--siege", action="store_true", help="members and disks at their worst")
    parser.add_argument("--verbose", action="store_true", help="tell what happens")
    options = parser.parse_args()
    if options.nodes is not None and not 3 <= options.nodes <= 50:
        parser.error("--nodes must be from 3 to 50")
    failed = []
    began = time.monotonic()
    for seed in range(options.start, options.start + options.seeds):
        try:
            outcome = _tell(seed, options)
        except Exception as error:  # whatever a seed ends in is what this program is to report
            failed.append(seed)
            if options.verbose:
                traceback.print_exc()
            what = "swarm " if options.what == "swarm" else ""
            nodes = f" --nodes {options.nodes}" if options.nodes else ""
            nodes += " --siege" if options.siege else ""
            print(f"seed {seed} FAILED: {type(error).__name__}: {error}")
            print(
                f"  replay: scripts/sim {what}--start {seed} --seeds 1 --steps {options.steps}"
                f"{nodes} --verbose",
                flush=True,
            )
        else:
            if options.verbose:
                print(outcome)
    seconds = time.monotonic() - began
    print(f"{options.seeds} seeds, {len(failed)} failed, {seconds:.1f} s")
    return 1 if failed else 0


def _tell(seed: int, options: argparse.Namespace) -> object:
    if options.what == "swarm":
        if options.verbose:
            for source in swarm.scenario(seed)[1]:
                print(source)
        return swarm.run_seed(seed)
    tell = besiege if options.siege else run
    return tell(seed, nodes=options.nodes, steps=options.steps, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
