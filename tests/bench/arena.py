"""Where the contestants meet: runs one scenario of one contestant and measures it."""

import time
from contextlib import nullcontext
from pathlib import Path

from . import limit, load
from .contestants import Contestant, Contestants
from .database import NEW_KEYS_FROM, Trials
from .figures import Figures
from .load import LoadSpec
from .processes import forget_peak, peak_megabytes, resident_megabytes
from .rows import Records
from .scenarios import BAD_ITEMS, LARGE_ITEMS, LOCKED, OTHER, Scenario

EXISTING_ROWS = 50_000
NEW_ROWS = 150_000
"""How many a run with new keys can create; a fast contestant's run ends with the last one."""

ONE_ITEM_BODIES = 6_400


class Arena:
    """One PostgreSQL, the contestants, and the time that a run takes."""

    def __init__(
        self, dsn: str, postgres_pid: int, pgbench: Path, trials: Trials, theirs: Trials,
        contestants: Contestants, folder: Path, seconds: float,
    ) -> None:  # fmt: skip
        self._dsn = dsn
        self._postgres_pid = postgres_pid
        self._pgbench = pgbench
        self._trials = trials
        self._theirs = theirs
        self._contestants = contestants
        self._folder = folder
        self._seconds = seconds

    def warm_up(self) -> None:
        """Write once without measuring: PostgreSQL creates its WAL files, later it reuses them."""
        self._trials.refill("real", EXISTING_ROWS)
        limit.pgbench(
            self._pgbench, self._dsn, self._postgres_pid, "real", EXISTING_ROWS,
            are_new=False, sessions=2, seconds=3,
        )  # fmt: skip

    def run(self, scenario: Scenario, name: str) -> Figures:
        """Run one contestant in one scenario, on a fresh table."""
        if name == "bare-asyncpg":
            self._trials.refill(scenario.shape, EXISTING_ROWS)
            return limit.bare_asyncpg(self._dsn, self._seconds)
        if name.startswith("limit-"):
            self._trials.refill(scenario.shape, EXISTING_ROWS)
            return limit.pgbench(
                self._pgbench, self._dsn, self._postgres_pid, scenario.shape, EXISTING_ROWS,
                are_new=scenario.are_new,
                sessions=int(name.removeprefix("limit-")),
                seconds=self._seconds,
            )  # fmt: skip
        spec = self._spec(self._contestants[name], scenario)
        self._table_of(name).refill(scenario.shape, EXISTING_ROWS)
        figures = load.finish(load.start(spec))
        _check_statuses(figures, scenario)
        return figures

    def _table_of(self, name: str) -> Trials:
        return self._theirs if name == OTHER else self._trials

    def _spec(
        self, contestant: Contestant, scenario: Scenario, rows: int | None = None
    ) -> LoadSpec:
        return LoadSpec(
            port=contestant.port,
            head=contestant.head,
            bodies=str(self._bodies(scenario, rows)),
            items=scenario.batch,
            connections=scenario.connections,
            seconds=self._seconds,
            warm_up_seconds=min(1.0, self._seconds / 4),
            is_once=scenario.are_new,
            service_pids=contestant.pids,
            postgres_pid=self._postgres_pid,
        )

    def _bodies(self, scenario: Scenario, rows: int | None) -> Path:
        """Return the file of the scenario's request bodies, one a line; written once."""
        path = self._folder / f"{scenario.name}-{scenario.batch}.bodies"
        if not path.exists():
            if rows is None:
                rows = NEW_ROWS if scenario.are_new else EXISTING_ROWS
                rows = min(rows, ONE_ITEM_BODIES * scenario.batch)
            first = NEW_KEYS_FROM if scenario.are_new else 1
            records = Records(
                scenario.shape, bad_every=scenario.bad_every, bad=BAD_ITEMS[scenario.bad]
            )
            with path.open("wb") as file:
                for start in range(first, first + rows, scenario.batch):
                    keys = range(start, start + scenario.batch)
                    file.write(records.body(keys, scenario.key) + b"\n")
        return path

    def large(self, name: str, batch: int) -> Figures:
        """Send 100,000 items once, in batches of one size; measure the memory too."""
        contestant = self._contestants[name]
        scenario = Scenario("large", "", (), batch=batch, connections=1)
        spec = self._spec(contestant, scenario, LARGE_ITEMS)
        spec.is_once, spec.warm_up_seconds, spec.seconds = True, 0, 3600
        self._table_of(name).refill("short", LARGE_ITEMS)
        for pid in contestant.pids:
            forget_peak(pid)
        figures = load.finish(load.start(spec))
        figures.peak_mb = max(map(peak_megabytes, contestant.pids))
        figures.body_mb = Path(spec.bodies).stat().st_size * batch / LARGE_ITEMS / 2**20
        return figures

    def fair(self, name: str, label: str, beside: Scenario | None) -> Figures:
        """Send one-item batches, alone or beside another load."""
        contestant, table = self._contestants[name], self._table_of(name)
        small = self._spec(contestant, Scenario("fair", "", (), batch=1, are_new=True))
        small.is_once = False
        small.seconds = max(3, self._seconds * 2)
        table.refill("short", LARGE_ITEMS)
        if beside is None:
            return load.finish(load.start(small))
        other = self._spec(contestant, beside, LARGE_ITEMS)
        other.warm_up_seconds, other.seconds = 0, small.seconds + 1
        with table.locked_row() if label == LOCKED else nullcontext():
            at_work = load.start(other)
            time.sleep(1)
            figures = load.finish(load.start(small))
        load.finish(at_work)
        return figures

    def idle(self, name: str) -> Figures:
        """Measure the memory of a process; to be asked before it has served."""
        contestant = self._contestants[name]
        time.sleep(2)
        resident = max(map(resident_megabytes, contestant.pids))
        return Figures(items=0, items_per_second=0, resident_mb=resident)


def _check_statuses(figures: Figures, scenario: Scenario) -> None:
    """Raise ValueError unless exactly the bad items were refused."""
    expected = figures.items // scenario.bad_every if scenario.bad_every else 0
    stored = figures.statuses.get("200", 0) + figures.statuses.get("201", 0)
    if figures.statuses.get("400", 0) != expected or stored != figures.items - expected:
        raise ValueError(f"{scenario.name}: expected {expected} refused, got {figures.statuses}")
