"""Histories under one fault after another, and the table of what they showed."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, repeat
from pathlib import Path

from tests.model.history import KINDS, LATE_SECONDS, History, Violation, fields
from tests.model.history_faults import FAULTS, Fault
from tests.model.history_senders import HOT, Load, Sender
from tests.model.history_world import World
from tests.support.pgbouncer import PROGRAM as PGBOUNCER
from tests.support.service import KEY

HEALING_SECONDS = 30


@dataclass
class Verdict:
    """What one history, or several of one fault, came to."""

    fault: str
    seconds: float = 0
    strikes: int = 0
    requests: int = 0
    items: int = 0
    acknowledged: int = 0
    megabytes: float = 0
    """The memory of the larger service."""
    violations: list[Violation] = field(default_factory=list)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.fault,
            self.seconds + other.seconds,
            self.strikes + other.strikes,
            self.requests + other.requests,
            self.items + other.items,
            self.acknowledged + other.acknowledged,
            max(self.megabytes, other.megabytes),
            self.violations + other.violations,
        )

    @property
    def row(self) -> list[str]:
        """The figures as the cells of a table."""
        kinds = Counter(violation.kind for violation in self.violations)
        figures = [self.strikes, self.requests, self.items, self.acknowledged]
        figures.append(round(self.megabytes))
        return [f"{figure:,}" for figure in (*figures, *map(kinds.get, KINDS, repeat(0)))]


@contextmanager
def world(*, is_pooled: bool = False, longest_seconds: float = 2) -> Iterator[World]:
    """Make a world in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="histories-") as name:
        folder = Path(name)
        # As root the server's unprivileged account has to come through.
        folder.chmod(0o755)
        with World(folder, is_pooled=is_pooled, longest_seconds=longest_seconds) as made:
            yield made


async def run(
    world: World,
    fault: Fault,
    seconds: float,
    strikes: int = 0,
    *,
    idempotency: bool = False,
) -> Verdict:
    """Let senders send while the fault strikes, for so long and at least so often.

    With idempotency they send batches again, under an Idempotency-Key.
    """
    began = time.monotonic()
    load = replace(fault.load, is_idempotent=idempotency)
    struck: list[float] = []
    async with world.reached():
        history = await world.begin()
        history.excuse = fault.excuse and partial(fault.excuse, world)
        is_over = asyncio.Event()
        senders = [Sender(n, world, history, load) for n in range(load.senders)]
        async with fault.striking(world, struck):
            sending = [asyncio.create_task(sender.run(is_over)) for sender in senders]
            await asyncio.sleep(seconds)
            while len(struck) < strikes:
                await asyncio.sleep(0.05)
        is_over.set()
        await asyncio.gather(*sending)
        await _heal(world, history, load)
        if not await world.settles(LATE_SECONDS):
            what = f"a session is still at work {LATE_SECONDS} s after the last answer"
            history.noted.append(Violation("late", what))
        await world.finish(history)
    return Verdict(
        fault.name,
        time.monotonic() - began,
        len(struck),
        len({write.request for write in history.writes}),
        len(history.writes),
        sum(write.is_stored for write in history.writes),
        max(service.megabytes for service in world.services),
        history.violations(),
    )


async def _heal(world: World, history: History, load: Load) -> None:
    """See that each service stores a batch, now that all is well again."""
    for number in range(load.services):
        sender = Sender(number, world, history, replace(load, patience_seconds=None))
        try:
            async with asyncio.timeout(HEALING_SECONDS):
                for attempt in range(1_000_000):
                    marker = f"{history.name}.{number}.healed.{attempt}"
                    request = await sender.send([{KEY: HOT[0], **fields(marker)}])
                    if request.is_done:
                        break
                    await asyncio.sleep(0.1)
        except TimeoutError:
            history.noted.append(Violation("hung", f"service {number} does not heal"))


def run_all(seconds: float, faults: Sequence[Fault] = FAULTS) -> list[Verdict]:
    """Run a history of each fault in turn, for about so long; return the verdict of each.

    Every other history goes through PgBouncer, where it is installed.
    """
    until = time.monotonic() + seconds
    verdicts: dict[str, Verdict] = {}
    each = max(3.0, min(20.0, seconds / len(faults) - 5))
    with ExitStack() as stack:
        worlds = [stack.enter_context(world(longest_seconds=4))]
        if PGBOUNCER is not None:
            worlds.append(stack.enter_context(world(is_pooled=True, longest_seconds=4)))
        for number in count():
            if time.monotonic() > until:
                break
            turn, place = divmod(number, len(faults))
            chosen = worlds[(turn + place) % len(worlds)]
            idempotency = random.random() < 0.7
            verdict = asyncio.run(run(chosen, faults[place], each, idempotency=idempotency))
            verdict.fault += ", PgBouncer" if chosen.is_pooled else ""
            print(f"{verdict.fault}: {len(verdict.violations)} violations", flush=True)
            earlier = verdicts.get(verdict.fault, Verdict(verdict.fault))
            verdicts[verdict.fault] = earlier + verdict
    return list(verdicts.values())


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return a table of verdicts, and some of the violations of each."""
    heads = ["strikes", "requests", "items", "stored", "MB", *KINDS]
    total = sum(verdicts, start=Verdict("all"))
    lines = [f"{'fault':<60}" + "".join(f"{head:>10}" for head in heads)]
    for verdict in (*verdicts, total):
        lines.append(f"{verdict.fault:<60}" + "".join(f"{cell:>10}" for cell in verdict.row))
    for verdict in verdicts:
        for kind in KINDS:
            found = [violation for violation in verdict.violations if violation.kind == kind]
            lines += [f"{verdict.fault}: {kind}: {violation.what}" for violation in found[:3]]
    return "\n".join(lines)
