"""What may befall a world, each once."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from tests.model.history import LATE_SECONDS, Write
from tests.model.history_senders import HOT, WAITED_FOR
from tests.model.history_world import ABSENT, PRESENT, SERVICES_SESSIONS, Held, World
from tests.support.proxy import Fault as Harm
from tests.support.proxy import Link

Strike = Callable[[World], Awaitable[None]]

PASSING = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a stranger is told while the server is ill, or when it is the victim of a deadlock."""


DELETE_EXPIRED = (
    "select care_case_clinical_trial_delete_expired(clock_timestamp() - interval '5 s', 100)"
)


async def nothing(_world: World) -> None:
    """No harm."""


async def end_sessions(world: World) -> None:
    """End all sessions of the services, or one."""
    limit = random.choice(["", "order by random() limit 1"])
    await world.execute(f"select pg_terminate_backend(pid) {SERVICES_SESSIONS} {limit}")


async def kill_server(world: World) -> None:
    """SIGKILL to all of PostgreSQL, and a new start at once."""
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.to_thread(world.postgres.start)


async def keep_server_down(world: World) -> None:
    """SIGKILL to all of PostgreSQL, and a new start after a while."""
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(random.uniform(0, world.longest_seconds))
    await asyncio.to_thread(world.postgres.start)


async def forget_requests(world: World) -> None:
    """Delete the receipts of requests that were not used for longer than senders wait."""
    await world.execute(DELETE_EXPIRED)


def no_excuse(_world: World, _write: Write) -> bool:
    """Nothing excuses a 503."""
    return False


async def _hold(
    world: World,
    statements: Sequence[tuple[str, Sequence[Any]]],
    keys: Sequence[int] = (),
    seconds: float = 0,
) -> None:
    """Run statements in a transaction, and undo it after so many seconds, or some.

    The keys are those whose rows they hold.
    """
    began = time.monotonic()
    connection = await world.stranger()
    try:
        transaction = connection.transaction()
        await transaction.start()
        for statement, arguments in statements:
            await connection.execute(statement, *arguments)
        await asyncio.sleep(seconds or random.uniform(0.1, 1.5 * world.longest_seconds))
        await transaction.rollback()
    except PASSING:
        pass
    finally:
        connection.terminate()
        world.held += [Held(key, began, time.monotonic()) for key in keys]


LOCK_ROW = "select from care_case_clinical_trial where care_case_clinical_trial_key = $1 for update"

CREATE_ROW = """
insert into care_case_clinical_trial
    (care_case_clinical_trial_key, comment, entry_date, update_date)
values ($1, $2, now(), now())
on conflict do nothing
"""


async def lock_rows(world: World) -> None:
    """Hold the locks of some rows, and of the keys of some that are not there yet."""
    keys = random.sample(HOT, random.randint(1, 3))
    creations = [(CREATE_ROW, (key, "of a stranger")) for key in keys]
    await _hold(world, [*creations, *((LOCK_ROW, (key,)) for key in keys)], keys)


def is_held(world: World, write: Write) -> bool:
    """Whether somebody held the item's row while it was at work."""
    return any(
        held.key == write.key and held.began < write.ended and held.ended > write.sent
        for held in world.held
    )


async def lock_table(world: World) -> None:
    """Hold a lock of the table as DDL does."""
    mode = random.choice(["share", "share row exclusive", "access exclusive"])
    await _hold(world, [(f"lock table care_case_clinical_trial in {mode} mode", ())])


async def lock_rows_in_opposite_order(world: World) -> None:
    """Take the locks of several rows one by one, from the highest key to the lowest."""
    keys = sorted(random.sample(HOT, 6), reverse=random.random() < 0.7)
    connection = await world.stranger()
    try:
        async with connection.transaction():
            for key in keys:
                await connection.execute(LOCK_ROW, key)
                await asyncio.sleep(random.uniform(0, 0.1))
    except PASSING:
        pass
    finally:
        connection.terminate()


SLOW_KEY = HOT[1]

SLOW_PLACES = (13, 93)
"""Among the items of a batch that have no key."""

SLOW_TRIGGER = f"""
create function slow() returns trigger language plpgsql as $$
begin
    if random() < 0.1 and new.care_case_clinical_trial_key = {SLOW_KEY} or
        random() < 0.25
            and new.care_case_clinical_trial_key between {PRESENT[-1] + 1} and {ABSENT[0] - 1}
            and new.comment similar to '%.({"|".join(map(str, SLOW_PLACES))})'
    then
        perform pg_sleep(4 * random());
    end if;
    return new;
end
$$;
create trigger slow before insert or update on care_case_clinical_trial
for each row execute function slow();
"""

NO_SLOW_TRIGGER = "drop trigger slow on care_case_clinical_trial; drop function slow"


def is_slow(_world: World, write: Write) -> bool:
    """Whether the slow trigger may have kept the item out."""
    return write.key == SLOW_KEY or (not write.key and write.place in SLOW_PLACES)


async def freeze_service(world: World) -> None:
    """SIGSTOP to a service for a while."""
    service = random.choice(world.services)
    service.send(signal.SIGSTOP)
    await asyncio.sleep(random.uniform(0.5, 2 * world.longest_seconds))
    service.send(signal.SIGCONT)


async def freeze_backend(world: World) -> None:
    """SIGSTOP to a PostgreSQL backend of a service, at work if there is one, for a while."""
    connection = await world.stranger()
    backend = await connection.fetchval(
        f"select pid {SERVICES_SESSIONS} order by state = 'active' desc, random() limit 1"
    )
    await connection.close()
    if backend is None:
        return
    with suppress(ProcessLookupError):
        os.kill(backend, signal.SIGSTOP)
        await asyncio.sleep(random.uniform(0.5, 2 * world.longest_seconds))
        os.kill(backend, signal.SIGCONT)


async def kill_service(world: World) -> None:
    """SIGKILL to a service, and a new process."""
    await _replace(world, signal.SIGKILL)


async def stop_service(world: World) -> None:
    """SIGTERM to a service, and a new process once it has drained."""
    await _replace(world, signal.SIGTERM)


async def _replace(world: World, number: signal.Signals) -> None:
    service = random.choice(world.services)
    await asyncio.to_thread(service.end, number)
    service.start()
    await service.wait_until_alive(world.session)


async def cut_connections(world: World) -> None:
    """Reset all connections between a service and the database."""
    random.choice(world.ways).cut()


async def close_the_way(world: World) -> None:
    """Reset all connections between a service and the database, and new ones, for a while."""
    way = random.choice(world.ways)
    way.fault = lambda link, _data: link.cut()
    way.cut()
    await asyncio.sleep(random.uniform(0.5, 2 * world.longest_seconds))
    way.fault = None


async def close_the_way_while_a_row_is_locked(world: World) -> None:
    """Let statements wait for a row, and lose them; the row is free some time after the way is."""
    seconds = 1.5 * world.longest_seconds
    # The way of the service whose statements may wait longest.
    way = world.ways[-1]
    async with _a_row_locked(world, seconds):
        way.fault = lambda link, _data: link.cut()
        way.cut()
        await asyncio.sleep(0.6 * seconds)
        way.fault = None


async def kill_service_while_a_row_is_locked(world: World) -> None:
    """Let statements wait for a row, and lose who sent them; the row is free much later."""
    async with _a_row_locked(world, LATE_SECONDS + 4):
        await kill_service(world)


@asynccontextmanager
async def _a_row_locked(world: World, seconds: float) -> AsyncIterator[None]:
    """Hold a row for so long; the block begins when statements wait for it."""
    lock = [(LOCK_ROW, (WAITED_FOR,))]
    holding = asyncio.create_task(_hold(world, lock, [WAITED_FOR], seconds))
    await asyncio.sleep(0.3)
    yield
    await holding


async def stall_connections(world: World) -> None:
    """Let no byte through for a while, without a word; what was under way is lost, or late."""
    way = random.choice(world.ways)
    way.stall()
    await asyncio.sleep(random.uniform(0.5, 2 * world.longest_seconds))
    random.choice([way.resume, way.deliver])()


async def delay_statements(world: World) -> None:
    """Let a statement of each service arrive late, maybe after its sender has given it up."""
    async with asyncio.TaskGroup() as delaying:
        for way in world.ways:
            seconds = random.choice([random.uniform(0.1, 2.5), random.uniform(3, 5)])
            delaying.create_task(way.delay_a_statement(seconds, is_cut=random.random() < 0.5))


async def swallow_an_answer(world: World) -> None:
    """Cut a connection after a statement has run and before its answer."""

    def swallow(link: Link, data: bytes) -> bytes:
        link.swallows_answers = True
        return data

    if link := await _harm_a_statement(world, swallow):
        with suppress(TimeoutError):
            await asyncio.wait_for(link.answered.wait(), 2)
        await asyncio.sleep(random.choice([0, 0.05, 0.3]))
        link.cut()


async def cut_within_a_statement(world: World) -> None:
    """Cut a connection after some bytes of a statement, or as soon as it is sent."""

    def shorten(_link: Link, data: bytes) -> bytes:
        return data[: random.randint(1, len(data))] if random.random() < 0.7 else data

    if link := await _harm_a_statement(world, shorten):
        await asyncio.sleep(random.choice([0, 0.01]))
        link.cut()


async def _harm_a_statement(world: World, harm: Harm) -> Link | None:
    """Harm what a service sends next on one of its connections; return the connection."""
    way = random.choice(world.ways)
    harmed: asyncio.Queue[Link] = asyncio.Queue()

    def once(link: Link, data: bytes) -> bytes | None:
        way.fault = None
        harmed.put_nowait(link)
        return harm(link, data)

    way.fault = once
    try:
        return await asyncio.wait_for(harmed.get(), 1)
    except TimeoutError:
        return None
    finally:
        way.fault = None
