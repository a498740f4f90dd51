"""``python -m tests.bench``: builds, starts and compares; prints the table of ratios."""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from service.demo.postgres import EmbeddedPostgres, find_binaries

from . import report
from .arena import Arena
from .contestants import CannotRun, Contestants
from .database import SETTINGS, Trials
from .figures import Figures, Run
from .scenarios import BESIDE, LARGE_ITEMS, LARGE_SIZES, ONE, OTHER, SCENARIOS

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
SPECIAL = ("idle", "large", "fair")

Step = tuple[str, str, Callable[[], Figures]]


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    names = [*SPECIAL, *(scenario.name for scenario in SCENARIOS)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short turns: 2 minutes instead of 20, or 5 with --against",
    )
    parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
    parser.add_argument("--seconds", type=float, help="how long one turn takes")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="compare with the service of another checkout (in its .venv-run or .venv) instead",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write the figures into tests/bench/results/ and docs/performance.md",
    )
    chosen = parser.parse_args()
    if chosen.against and chosen.report:
        parser.error("--report is of the contestants, not of --against")
    return chosen


def steps(arena: Arena, wanted: set[str], number: int, *, has_other: bool) -> Iterator[Step]:
    """Yield what a round consists of; the order of the contestants turns with each round."""
    services = in_turn((ONE, OTHER) if has_other else (ONE,), number)
    if "idle" in wanted and number == 1:
        for name in services:
            yield "idle", name, partial(arena.idle, name)
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            contestants = services if has_other else in_turn(scenario.contestants, number)
            for name in contestants:
                yield scenario.name, name, partial(arena.run, scenario, name)
    for size in LARGE_SIZES if "large" in wanted else ():
        for name in services:
            yield f"large-{size}", name, partial(arena.large, name, size)
    for label, beside in BESIDE.items() if "fair" in wanted else ():
        for name in services:
            yield f"fair-{label}", name, partial(arena.fair, name, label, beside)


def in_turn(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return the names, begun with another one in each round."""
    first = number % len(names)
    return names[first:] + names[:first]


def compare(arena: Arena, wanted: set[str], rounds: int, *, has_other: bool) -> list[Run]:
    """Return the runs of all rounds; a contestant that cannot run is left out, and said so."""
    runs: list[Run] = []
    missing: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for scenario, contestant, measure in steps(arena, wanted, number, has_other=has_other):
            if contestant in missing:
                continue
            try:
                figures = measure()
            except CannotRun as error:
                missing[contestant] = str(error)
                print(f"{contestant} is left out: {error}", file=sys.stderr)
                continue
            runs.append(Run(scenario, contestant, number, figures))
            progress = f"round {number}, {scenario}, {contestant}"
            print(f"{progress}: {figures.items_per_second:,.0f} items/s", file=sys.stderr)
    return runs


def main() -> None:
    chosen = arguments()
    # As Ctrl-C does, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    seconds = chosen.seconds or (1.0 if chosen.quick else 3.0)
    rounds = chosen.rounds or ((3 if chosen.against else 1) if chosen.quick else 5)
    names = {*SPECIAL, *(scenario.name for scenario in SCENARIOS)}
    wanted = set(chosen.only) if chosen.only else names
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
        # As root, PostgreSQL runs under another account, which must get to its folder.
        scratch.chmod(0o711)
        folder = scratch / "private"
        folder.mkdir(mode=0o700)
        server = stack.enter_context(
            EmbeddedPostgres(scratch / "postgres", durable=True, settings=SETTINGS, port=0)
        )
        server.create_database("bench")
        dsn = server.tcp_dsn("bench")
        server.create_database("there")
        their_dsn = server.tcp_dsn("there")
        contestants = Contestants(dsn, folder, chosen.against, their_dsn)
        stack.callback(contestants.stop)
        contestants.migrate()
        trials = Trials(dsn)
        trials.prepare(LARGE_ITEMS)
        theirs = Trials(their_dsn)
        if chosen.against:
            theirs.prepare(LARGE_ITEMS)
        pgbench = find_binaries() / "pgbench"
        arena = Arena(
            dsn, trials.postmaster(), pgbench, trials, theirs, contestants, folder, seconds
        )
        arena.warm_up()
        runs = compare(arena, wanted, rounds, has_other=chosen.against is not None)
        postgres = trials.version()
    if chosen.against:
        print(report.side_by_side(runs, chosen.against))
        return
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    machine = report.machine_and_versions(postgres)
    text = report.compose(runs, command, machine)
    print(text)
    if chosen.report:
        report.write(text, runs, RESULTS, command, machine)
        report.into_document(text, DOCUMENT)


if __name__ == "__main__":
    main()
