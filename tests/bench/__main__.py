"""``python -m tests.bench``: builds, starts and compares; prints the table of ratios."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.embedded import EmbeddedPostgres

from . import report
from .competitors import CannotRun, Contestants
from .database import SETTINGS, Trials
from .figures import Results, Run
from .measure import Arena
from .scenarios import ONE, OTHER, SCENARIOS


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 minutes instead of 25")
    parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
    parser.add_argument("--seconds", type=float, help="how long a turn lasts")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=names, default=names,
        help=f"of {', '.join(names)}; 10x4: batches of 10, 4 connections",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT",
        help="compare with the service of another checkout (in its .venv-run or .venv) instead",
    )  # fmt: skip
    parser.add_argument(
        "--report", action="store_true",
        help="write the figures into tests/bench/results/, docs/performance.md and README.md",
    )  # fmt: skip
    chosen = parser.parse_args()
    if chosen.report and (chosen.against or chosen.only is not names):
        parser.error("--report is of all contestants in all scenarios: no --against, no --only")
    return chosen


def compare(arena: Arena, wanted: Sequence[str], rounds: int, *, has_other: bool) -> list[Run]:
    """Return the runs of all rounds; a contestant that cannot run is left out, and said so.

    The order of the contestants turns with each round.
    """
    runs: list[Run] = []
    missing: set[str] = set()
    chosen = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    for number, scenario in product(range(1, rounds + 1), chosen):
        contestants = (ONE, OTHER) if has_other else scenario.contestants
        first = number % len(contestants)
        once = scenario.once if number == 1 and not has_other else ()
        for contestant in (*contestants[first:], *contestants[:first], *once):
            if contestant in missing:
                continue
            try:
                figures = arena.run(scenario, contestant)
            except CannotRun as error:
                missing.add(contestant)
                print(f"{contestant} is left out: {error}", file=sys.stderr)
                continue
            runs.append(Run(scenario.name, contestant, number, figures))
            progress = f"round {number}, {scenario.title}, {contestant}"
            print(f"{progress}: {figures.items_per_second:,.0f} items/s", file=sys.stderr)
    return runs


def main() -> None:
    chosen = arguments()
    # As Ctrl-C does, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seconds = chosen.seconds or (1.0 if chosen.quick else 5.0)
    rounds = chosen.rounds or (1 if chosen.quick and not chosen.against else 3)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        # As root, PostgreSQL runs under another account, which must get to its folder.
        scratch.chmod(0o711)
        folder = scratch / "private"
        folder.mkdir(mode=0o700)
        server = stack.enter_context(
            EmbeddedPostgres(scratch / "postgres", durable=True, settings=SETTINGS, port=0)
        )
        for name in ("bench", "there"):
            server.create_database(name)
        trials, theirs = (Trials(server.tcp_dsn(name)) for name in ("bench", "there"))
        contestants = Contestants(trials.dsn, folder, chosen.against, theirs.dsn)
        stack.callback(contestants.stop)
        contestants.migrate()
        for table in (trials, theirs) if chosen.against else (trials,):
            table.prepare({s.shape: s.rows for s in sorted(SCENARIOS, key=lambda s: s.rows)})
        arena = Arena(trials, theirs, contestants, folder, seconds)
        arena.warm_up()
        runs = compare(arena, chosen.only, rounds, has_other=chosen.against is not None)
        machine = report.machine_and_versions(trials.version())
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    results = Results(command, machine, os.cpu_count() or 1, runs)
    if chosen.against:
        print(report.side_by_side(results, chosen.against))
        return
    print(report.text(results))
    if chosen.report:
        report.publish(results)


if __name__ == "__main__":
    main()
