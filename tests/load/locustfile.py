"""Locust users that send batches and check every outcome; ``tests.load.run`` starts them.

A response that is not what the contract requires is a failure of its own kind. A batch that gets
429 or 503 is resent after Retry-After.
"""

import logging
import random
from collections import Counter, defaultdict
from itertools import cycle
from typing import Any

import gevent
from locust import FastHttpUser, events, task

from tests.load.batches import FIRST_KEY, Batch, Mismatch, build, check

PATH = "/care-case-clinical-trials-batch"

PAUSE_SECONDS = 1
"""After a failed request, so that an unavailable service is not called in a tight loop."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add the options of this test to Locust's own."""
    add = parser.add_argument_group("Batches").add_argument
    add("--batch-size", type=int, default=1000, help="items per batch (1000)")
    add("--bad-share", type=float, default=0.0, help="share of bad items (0)")
    add("--keys", type=int, default=100_000, help="number of record keys in use (100000)")
    add("--tenants", default="acme,globex", help="databases, used in turn (acme,globex)")
    # From the environment rather than the command line, where every account can read them.
    add("--api-key", env_var="LOAD_API_KEY", default="", help="default: $LOAD_API_KEY")
    add("--token", env_var="LOAD_TOKEN", default="", help="default: $LOAD_TOKEN")


@events.init.add_listener
def prepare(environment: Any, **_: Any) -> None:
    """Create what all users share."""
    environment.load_stored = defaultdict(set)  # by database, the record keys with a 200 or 201
    environment.load_items = Counter()  # by status


class Sender(FastHttpUser):
    """Sends one batch after another, to each database in turn."""

    network_timeout = connection_timeout = 120.0
    insecure = False

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._options = environment.parsed_options
        self._databases = cycle(self._options.tenants.split(","))
        self._chance = random.Random()

    @task
    def send(self) -> None:
        """Send one batch, and resend it as long as the service asks for that."""
        database, options = next(self._databases), self._options
        keys = range(FIRST_KEY, FIRST_KEY + options.keys)
        draw = self._chance.sample if options.batch_size <= len(keys) else self._chance.choices
        batch = build(
            draw(keys, k=options.batch_size),
            self._chance,
            bad_share=options.bad_share,
            existing=self.environment.load_stored[database],
        )
        while (wait := self._put(batch, database)) is not None:
            gevent.sleep(wait)

    def _put(self, batch: Batch, database: str) -> float | None:
        """Send a batch; return the seconds to wait before resending it, or None."""
        headers = {
            "x-api-key": self._options.api_key,
            "Authorization": f"Bearer {self._options.token}",
            "vbasoftware-database": database,
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        with self.client.put(
            PATH, data=batch.body, headers=headers, name="batch", catch_response=True
        ) as response:
            try:
                if response.status_code in (429, 503):
                    response.request_meta["name"] = f"batch rejected with {response.status_code}"
                    wait = response.headers.get("retry-after", "")
                    if not wait.isdigit():
                        raise Mismatch("wrong Retry-After", repr(wait))
                    response.success()
                    return float(wait)
                if response.status_code == 207:
                    self.environment.load_items += check(response.content, batch)
                    self.environment.load_stored[database] |= batch.stored_keys
                    response.success()
                    return None
                if response.status_code:
                    text = repr((response.content or b"")[:300])
                    raise Mismatch(f"status {response.status_code} instead of 207", text)
            except Mismatch as mismatch:
                logging.error("%s", mismatch)
                response.failure(mismatch.kind)
        # Also if no response came; Locust counts why.
        gevent.sleep(PAUSE_SECONDS)
        return None


@events.quitting.add_listener
def report(environment: Any, **_: Any) -> None:
    """Print the items per second; exit with 1 if there are none, as Locust does after failures."""
    total = environment.stats.total
    seconds = (total.last_request_timestamp or 0) - total.start_time
    for status, count in sorted(environment.load_items.items()):
        print(f"{count:>12,} items {status} {count / seconds:>10,.0f} items/s")
    if not environment.load_items:
        environment.process_exit_code = 1
