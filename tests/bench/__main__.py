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

from service.embedded import EmbeddedPostgres, find_binaries

from . import report
from .arena import Arena
from .contestants import CannotRun, Contestants
from .database import SETTINGS, Trials
from .figures import Figures, Run
from .scenarios import LARGE_ITEMS, LARGE_SIZES, SCENARIOS

RESULTS = Path(__file__).parent / "results"
SPECIAL = ("idle", "large", "fair")
ONE = "service-1"

Step = tuple[str, str, Callable[[], Figures]]


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    names = [*SPECIAL, *(scenario.name for scenario in SCENARIOS)]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of short turns: under 2 minutes instead of about 20",
    )
    parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
    parser.add_argument("--seconds", type=float, help="how long one turn takes")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--readme", action="store_true", help="put the ratios into README.md")
    return parser.parse_args()


def steps(arena: Arena, wanted: set[str], number: int) -> Iterator[Step]:
    """Yield what a round consists of; the order of the contestants turns with each round."""
    if "idle" in wanted and number == 1:
        yield "idle", ONE, partial(arena.idle, ONE)
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            turn = number % len(scenario.contestants)
            for name in (*scenario.contestants[turn:], *scenario.contestants[:turn]):
                yield scenario.name, name, partial(arena.run, scenario, name)
    if "large" in wanted:
        for size in LARGE_SIZES:
            yield f"large-{size}", ONE, partial(arena.large, ONE, size)
    if "fair" in wanted:
        yield "fair-alone", ONE, partial(arena.fair, ONE, beside_large=False)
        yield "fair-beside", ONE, partial(arena.fair, ONE, beside_large=True)


def compare(arena: Arena, wanted: set[str], rounds: int) -> list[Run]:
    """Return the runs of all rounds; a contestant that cannot run is left out, and said so."""
    runs: list[Run] = []
    missing: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for scenario, contestant, measure in steps(arena, wanted, number):
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
    rounds = chosen.rounds or (1 if chosen.quick else 5)
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
        contestants = Contestants(dsn, folder)
        stack.callback(contestants.stop)
        contestants.migrate()
        trials = Trials(dsn)
        trials.prepare(LARGE_ITEMS)
        pgbench = find_binaries() / "pgbench"
        arena = Arena(dsn, trials.postmaster(), pgbench, trials, contestants, folder, seconds)
        arena.warm_up()
        runs = compare(arena, wanted, rounds)
        postgres = trials.version()
    command = shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]])
    text = report.write(runs, chosen.output, command, postgres)
    print(text)
    if chosen.readme:
        report.into_readme(text, Path(__file__).parents[2] / "README.md")


if __name__ == "__main__":
    main()
