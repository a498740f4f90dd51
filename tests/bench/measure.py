"""Where the contestants meet: runs one scenario of one contestant and measures it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from . import limit, load
from .competitors import Contestant, Contestants
from .database import Trials
from .figures import Figures
from .load import NEW_KEYS_FROM, LoadSpec
from .processes import forget_peak, megabytes
from .rows import Records
from .scenarios import BAD_ITEMS, BARE, LARGE, LIMIT, OTHER, REAL, SESSION, Scenario

MAX_BODIES = 6_400


class Arena:
    """One PostgreSQL, the contestants, and the time that a turn takes."""

    def __init__(
        self, trials: Trials, theirs: Trials, contestants: Contestants, folder: Path, seconds: float
    ) -> None:
        self._trials = trials
        self._theirs = theirs
        self._contestants = contestants
        self._folder = folder
        self._seconds = seconds
        self._postgres_pid = trials.postmaster()

    def warm_up(self) -> None:
        """Write once without measuring: PostgreSQL creates its WAL files, later it reuses them."""
        self._trials.refill(REAL.shape, REAL.rows)
        limit.pgbench(self._trials.dsn, self._postgres_pid, REAL, sessions=2, seconds=3)

    def run(self, scenario: Scenario, name: str) -> Figures:
        """Run one contestant in one scenario, on a fresh table.

        Raises CannotRun where the contestant cannot be started.
        """
        table = self._theirs if name == OTHER else self._trials
        table.refill(scenario.shape, max(s.rows for s in (scenario, scenario.beside) if s))
        if name == BARE:
            return limit.bare_asyncpg(table.dsn, self._seconds)
        if name in (LIMIT, SESSION):
            sessions = 1 if name == SESSION else scenario.connections
            return limit.pgbench(table.dsn, self._postgres_pid, scenario, sessions, self._seconds)
        if scenario is LARGE:
            # Its peak of memory is to be that of a process that has served nothing else.
            self._contestants.stop(name)
        contestant = self._contestants[name]
        spec = self._spec(contestant, scenario)
        for pid in contestant.pids:
            forget_peak(pid)
        with self._beside(contestant, table, scenario):
            figures = load.finish(load.start(spec))
        if scenario.beside is None:
            _check_statuses(figures, scenario)
        in_flight = Path(spec.bodies).stat().st_size * scenario.batch * scenario.connections
        figures.bodies_mb = in_flight / len(self._keys(scenario)) / 2**20
        figures.peak_mb = max(megabytes(pid, "VmHWM") for pid in contestant.pids)
        figures.idle_mb = contestant.idle_mb
        return figures

    @contextmanager
    def _beside(self, contestant: Contestant, table: Trials, scenario: Scenario) -> Iterator[None]:
        """Send what is to be sent beside the scenario's own load."""
        if scenario.beside is None:
            yield
            return
        spec = self._spec(contestant, scenario.beside)
        # It begins a second before, and lasts until the other generator is started and warm.
        spec.warm_up_seconds, spec.seconds = 0, self._seconds + 3
        with table.locked_row() if scenario.is_row_locked else nullcontext():
            at_work = load.start(spec)
            time.sleep(1)
            yield
        load.finish(at_work)

    def _spec(self, contestant: Contestant, scenario: Scenario) -> LoadSpec:
        return LoadSpec(
            port=contestant.port,
            head=contestant.head,
            bodies=str(self._bodies(scenario)),
            items=scenario.batch,
            connections=scenario.connections,
            seconds=self._seconds,
            warm_up_seconds=min(1.0, self._seconds / 4),
            are_new=scenario.are_new,
            has_idempotency_key=scenario.has_idempotency_key,
            service_pids=contestant.pids,
            postgres_pid=self._postgres_pid,
        )

    def _keys(self, scenario: Scenario) -> range:
        first = NEW_KEYS_FROM if scenario.are_new else 1
        return range(first, first + min(scenario.rows, MAX_BODIES * scenario.batch))

    def _bodies(self, scenario: Scenario) -> Path:
        """Return the file of the scenario's request bodies, one a line; written once."""
        path = self._folder / f"{scenario.name}.bodies"
        if not path.exists():
            records = Records(
                scenario.shape, bad_every=scenario.bad_every, bad=BAD_ITEMS[scenario.bad]
            )
            keys = self._keys(scenario)
            with path.open("wb") as file:
                for start in range(0, len(keys), scenario.batch):
                    batch = keys[start : start + scenario.batch]
                    file.write(records.body(batch, scenario.key) + b"\n")
        return path


def _check_statuses(figures: Figures, scenario: Scenario) -> None:
    """Raise ValueError unless exactly the bad items were refused."""
    expected = figures.items // scenario.bad_every if scenario.bad_every else 0
    stored = figures.statuses.get("200", 0) + figures.statuses.get("201", 0)
    if figures.statuses.get("400", 0) != expected or stored != figures.items - expected:
        raise ValueError(f"{scenario.name}: expected {expected} refused, got {figures.statuses}")
