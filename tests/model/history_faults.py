"""What befalls a world during a history: each fault strikes again and again."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.model import history_events as strikes
from tests.model.history import Write
from tests.model.history_senders import Load
from tests.model.history_world import World


@dataclass(frozen=True)
class Fault:
    """A name, what happens at one strike, and between which seconds the next one comes."""

    name: str
    strike: strikes.Strike
    pause: tuple[float, float] = (0.1, 0.5)
    load: Load = field(default=Load())
    server: dict[str, str] = field(default_factory=dict)
    """Settings of the PostgreSQL server meanwhile."""
    table: tuple[str, str] = ("select", "select")
    """Statements before and after."""
    excuse: Callable[[World, Write], bool] | None = None
    """Tells whether it may cost an item a 503; None where it may cost anything, replies, too."""

    @asynccontextmanager
    async def striking(self, world: World, struck: list[float]) -> AsyncIterator[None]:
        """Strike during the block; the times go into ``struck``."""
        is_over = asyncio.Event()

        async def keep_striking() -> None:
            while not is_over.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), random.uniform(*self.pause))
                    return
                struck.append(asyncio.get_running_loop().time())
                await self.strike(world)

        async with self._prepared(world):
            striking = asyncio.create_task(keep_striking())
            try:
                yield
            finally:
                is_over.set()
                await striking

    @asynccontextmanager
    async def _prepared(self, world: World) -> AsyncIterator[None]:
        for name, value in self.server.items():
            await world.execute(f"alter system set {name} = {value}")
        await world.execute("select pg_reload_conf()")
        await world.execute(self.table[0])
        try:
            yield
        finally:
            await world.execute("alter system reset all")
            await world.execute("select pg_reload_conf()")
            await world.execute(self.table[1])


SLOW_DISK = {"commit_delay": "100000", "commit_siblings": "0", "synchronous_commit": "on"}

SLOW_TABLE = (strikes.SLOW_TRIGGER, strikes.NO_SLOW_TRIGGER)

FAULTS = [
    Fault("none", strikes.nothing, excuse=strikes.no_excuse),
    Fault(
        "two services, opposite order",
        strikes.nothing,
        load=Load(is_in_opposite_order=True),
        excuse=strikes.no_excuse,
    ),
    Fault("sessions ended", strikes.end_sessions, (0.05, 0.2)),
    Fault("server killed, slow disk", strikes.kill_server, (0.2, 1), server=SLOW_DISK),
    Fault(
        "server killed, slow disk, one new record each",
        strikes.kill_server,
        (0.1, 0.5),
        Load(senders=24, services=1, has_key_zero=True),
        SLOW_DISK,
    ),
    Fault("receipts pruned", strikes.forget_requests, (0, 0.1), excuse=strikes.no_excuse),
    Fault("server down", strikes.keep_server_down, (0.5, 2)),
    Fault("rows locked", strikes.lock_rows, (0, 0.3), excuse=strikes.is_held),
    Fault("rows locked, lock_timeout", strikes.lock_rows, (0, 0.3), server={"lock_timeout": "300"}),
    Fault("table locked", strikes.lock_table, (0.1, 1)),
    Fault("slow trigger", strikes.nothing, table=SLOW_TABLE, excuse=strikes.is_slow),
    Fault("slow trigger, connections cut", strikes.cut_connections, (0.2, 1), table=SLOW_TABLE),
    Fault(
        "deadlocks",
        strikes.lock_rows_in_opposite_order,
        (0, 0.1),
        Load(is_in_opposite_order=True),
    ),
    Fault("statements delayed", strikes.delay_statements, (0, 0.2)),
    Fault("answers swallowed", strikes.swallow_an_answer, (0, 0.1)),
    Fault("cut within a statement", strikes.cut_within_a_statement, (0, 0.1)),
    Fault("connections cut", strikes.cut_connections, (0.05, 0.2)),
    Fault("way closed", strikes.close_the_way, (0.2, 1)),
    Fault("connections stalled", strikes.stall_connections, (0.2, 1)),
    Fault("service frozen", strikes.freeze_service, (0.2, 1)),
    Fault("backend frozen", strikes.freeze_backend, (0.2, 1)),
    Fault("service killed", strikes.kill_service, (0.5, 2)),
    Fault("service stopped", strikes.stop_service, (0.5, 2)),
    Fault("clients hang up", strikes.lock_rows, (0, 0.3), Load(patience_seconds=(0.01, 1))),
    Fault(
        "way closed while a row is locked",
        strikes.close_the_way_while_a_row_is_locked,
        (0.5, 1),
        Load(waiting=4),
    ),
    Fault(
        "service killed while a row is locked",
        strikes.kill_service_while_a_row_is_locked,
        (0.5, 1),
        Load(waiting=4),
    ),
]
