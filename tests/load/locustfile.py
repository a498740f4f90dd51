"""Locust users that send batches to the demo or to any deployment, and check every outcome.

    make load                                        # the demo, a minute, with a report
    export LOAD_API_KEY=… LOAD_TOKEN=…
    locust -f tests/load/locustfile.py --host https://service.example/vbasoftware \\
        --headless --users 20 --spawn-rate 2 --run-time 2m --html report.html

Run it from the root of the repository. A base path is part of ``--host``. Each response must
be a 207 of complete JSON with one outcome an item, in order, each with the status that is due:
400 for the items spoilt by ``--bad-share``, 200 or 201 for the others, 200 only once a record
is known to be stored. Anything else is a failure by its own name, and the exit status is 1.
A 503 or 429 of the whole request is a row of its own; the batch is sent again after what
Retry-After asks for. The rows ITEM of the statistics count items, not requests: their RPS is
items/s. They are no part of the row Aggregated.

``--fail-if "p95>200ms" --fail-if "failures>0.1%"`` sets what else makes the exit status 1.
``--arrival-rate 50`` lets 50 batches arrive each second, however fast the service is; response
times then count from the moment at which a batch was due. ``--users`` is how many may wait at once.
"""

import argparse
import logging
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import cycle
from typing import Any

import gevent
from locust import FastHttpUser, events, task
from locust.runners import WorkerRunner

from tests.load.arrivals import Arrivals
from tests.load.batches import (
    FIRST_KEY,
    PATH,
    STORED,
    TELL_TO_WAIT,
    Batch,
    Keys,
    Mismatch,
    Records,
    build,
    verify,
    verify_refusal,
)
from tests.load.thresholds import Measured, broken, threshold

logger = logging.getLogger(__name__)

ITEM = "ITEM"
DETAILS_LOGGED = 3
PAUSE_SECONDS = 1
"""After a request that failed, so that a service that is away is not asked in a tight loop."""


class Ledger:
    """What all users of this process know together."""

    def __init__(self) -> None:
        self.stored: defaultdict[str, set[int]] = defaultdict(set)
        """The keys of each database whose 200 or 201 has been read."""
        self.mismatches: Counter[str] = Counter()

    def note(self, mismatch: Mismatch) -> None:
        """Count a mismatch; the first ones of a kind are logged with their details."""
        self.mismatches[mismatch.kind] += 1
        if self.mismatches[mismatch.kind] <= DETAILS_LOGGED:
            logger.error("%s", mismatch)


LEDGER = Ledger()


def number(kind: type[float], low: float, high: float = float("inf")) -> Callable[[str], float]:
    """Return a parser of numbers within bounds, for an argument."""

    def within_bounds(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {low:,} to {high:,}, got {text}")
        return value

    return within_bounds


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add this test's options to Locust's own."""
    group = parser.add_argument_group("Batches")
    add = group.add_argument
    add("--batch-size", type=number(int, 1), default=1000, help="items in a batch (1000)")
    add("--bad-share", type=number(float, 0, 1), default=0.0, help="share of bad items (0)")
    add("--keys", type=number(int, 1, 2**31 - 1 - FIRST_KEY), default=100_000,
        help="how many keys there are to draw from (100000)")  # fmt: skip
    add("--key-skew", type=number(float, 0), default=0.0,
        help="0: all keys alike; 1 and more: hot keys, as Zipf's law has them (0)")  # fmt: skip
    add("--tenants", default="acme,globex", help="the databases, taken in turns (acme,globex)")
    # From the environment rather than the command line, where every account can read them.
    add("--api-key", env_var="LOAD_API_KEY", default="", help="default: $LOAD_API_KEY")
    add("--token", env_var="LOAD_TOKEN", default="", help="default: $LOAD_TOKEN")
    add("--fail-if", type=threshold, action="append", default=[], metavar="THRESHOLD",
        help="p95>200ms, max>2s, failures>0.1%%, refused>5%%; may be given again")  # fmt: skip
    add("--arrival-rate", type=number(float, 0.001), default=None,
        help="batches a second that arrive, however fast they are answered (none)")  # fmt: skip
    add("--insecure", action="store_true", help="do not check the server's certificate")


class Sender(FastHttpUser):
    """Sends batch after batch, to one database after the other."""

    network_timeout = connection_timeout = 120.0

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self.insecure = options.insecure
        super().__init__(environment)
        self._size, self._bad_share = options.batch_size, options.bad_share
        self._databases = cycle(options.tenants.split(","))
        self._headers = {
            "x-api-key": options.api_key,
            "Authorization": f"Bearer {options.token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        self._chance = random.Random()

    @task
    def send(self) -> None:
        """Send one batch, and again as long as the service asks to wait."""
        database = next(self._databases)
        due = self._wait_until_due()
        batch = build(
            RECORDS,
            self.environment.load_keys.draw(self._size, self._chance),
            self._chance,
            bad_share=self._bad_share,
            existing=LEDGER.stored[database],
        )
        while (wait := self._put(batch, database, due)) is not None:
            gevent.sleep(wait)

    def _wait_until_due(self) -> float | None:
        """Return when the batch is due, None where it is whenever this user is free."""
        arrivals: Arrivals | None = self.environment.load_arrivals
        if arrivals is None:
            return None
        due = arrivals.next(time.perf_counter())
        gevent.sleep(max(0.0, due - time.perf_counter()))
        return due

    def _put(self, batch: Batch, database: str, due: float | None) -> float | None:
        """Send a batch; return the seconds to wait before it is sent again, or None."""
        headers = {**self._headers, "vbasoftware-database": database}
        with self.client.put(
            PATH, data=batch.body, headers=headers, name="batch", catch_response=True
        ) as response:
            if due is not None:
                # Also the time in which no user was free, or the service asked to wait.
                response.request_meta["response_time"] = (time.perf_counter() - due) * 1000
            try:
                if response.status_code in TELL_TO_WAIT:
                    response.request_meta["name"] = f"batch refused with {response.status_code}"
                    wait = verify_refusal(
                        response.status_code, response.content, response.headers.get("retry-after")
                    )
                    response.success()
                    return wait
                if response.status_code == 207:
                    self._check(response, batch, database)
                    response.success()
                    return None
                if response.status_code:
                    text = (response.content or b"")[:300].decode(errors="replace")
                    raise Mismatch(f"status {response.status_code} instead of 207", text)
            except Mismatch as mismatch:
                LEDGER.note(mismatch)
                response.failure(mismatch.kind)
        # Also where no response came; Locust has counted why.
        gevent.sleep(PAUSE_SECONDS)
        return None

    def _check(self, response: Any, batch: Batch, database: str) -> None:
        media_type = response.headers.get("content-type", "")
        if media_type.partition(";")[0].strip() != "application/json":
            raise Mismatch("wrong Content-Type", f"{media_type!r}")
        statuses = verify(response.content, batch.expected)
        LEDGER.stored[database] |= batch.stored_keys
        milliseconds = response.request_meta["response_time"]
        for status, count in statuses.items():
            self._count_items(status, count, milliseconds)

    def _count_items(self, status: int, count: int, milliseconds: float) -> None:
        """Count items in a row of their own, as one observation of the response time.

        Firing a request event for each outcome would make the row Aggregated count items and
        batches together, and cost more than the batch.
        """
        entry = self.environment.stats.get(f"{status} {STORED.get(status, 'refused')}", ITEM)
        entry.log(milliseconds, 0)
        entry.num_requests += count - 1
        entry.num_none_requests += count - 1
        entry.num_reqs_per_sec[int(time.time())] += count - 1


RECORDS = Records()


@events.init.add_listener
def prepare(environment: Any, **_: Any) -> None:
    """Weigh the keys once for all users."""
    options = environment.parsed_options
    environment.load_keys = Keys(options.keys, options.key_skew)
    rate = options.arrival_rate
    environment.load_arrivals = None if rate is None else Arrivals(rate, random.Random())


@events.quitting.add_listener
def report(environment: Any, **_: Any) -> None:
    """Print items/s by outcome, and let the process fail if anything was not as it must be."""
    if isinstance(environment.runner, WorkerRunner):
        return
    stats = environment.stats
    items = {
        entry.name: entry for (_, method), entry in sorted(stats.entries.items()) if method == ITEM
    }
    batches = stats.get("batch", "PUT")
    print(f"\n{batches.num_requests - batches.num_failures:,} batches were as they must be:")
    for name, entry in items.items():
        print(f"  {entry.num_requests:>12,} items {name:<12} {entry.total_rps:>10,.0f} items/s")
    total = sum(entry.num_requests for entry in items.values())
    rate = sum(entry.total_rps for entry in items.values())
    print(f"  {total:>12,} items {'in all':<12} {rate:>10,.0f} items/s")
    for error in stats.errors.values():
        print(f"  FAILED {error.occurrences:,} times: {error.name}: {error.error}")
    measured = Measured(
        answered=batches.num_requests - batches.num_failures,
        failed=sum(error.occurrences for error in stats.errors.values()),
        refused=sum(
            entry.num_requests for (name, _), entry in stats.entries.items() if "refused" in name
        ),
        percentile=lambda share: float(
            batches.max_response_time if share == 1 else batches.get_response_time_percentile(share)
        ),
    )
    missed = broken(environment.parsed_options.fail_if, measured)
    for words in missed:
        print(f"  FAILED: {words}")
    environment.process_exit_code = 1 if missed or not total else 0
