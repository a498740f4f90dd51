"""The count of batches and bytes in flight, to the last one."""

from contextlib import ExitStack
from typing import Any

import pytest

from service.config import Auth, Database, Jwt, Server, Settings
from service.http.admission import Admission
from service.http.envelope import Problem

MIB = 2**20


def limits(databases: int, **server: Any) -> Settings:
    return Settings(
        Auth({}, Jwt(["HS256"], "x" * 32)),
        {f"database{number}": Database("postgresql://h/x") for number in range(databases)},
        Server(**server),
    )


@pytest.mark.parametrize(
    ("other", "fits"),
    [(("loader", "acme"), False), (("guest", "acme"), True), (("loader", "globex"), True)],
    ids=["the same key and database", "another key", "another database"],
)
def test_batches_are_counted_per_api_key_and_database(other: tuple[str, str], fits: bool) -> None:
    admission = Admission(limits(2, max_batches_in_flight=2))

    with ExitStack() as in_flight:
        for _ in range(2):
            in_flight.enter_context(admission.count_batch("loader", "acme"))
        if fits:
            in_flight.enter_context(admission.count_batch(*other))
        else:
            with pytest.raises(Problem):
                in_flight.enter_context(admission.count_batch(*other))
    with ExitStack() as in_flight:
        for _ in range(2):
            in_flight.enter_context(admission.count_batch("loader", "acme"))


SMALL = {"max_bytes_in_flight": 250, "max_body_bytes": 100}
"""Bodies that are smaller than 1 MiB: two databases have 100 bytes of their own and share 50."""

LARGE = {"max_bytes_in_flight": 12 * MIB, "max_body_bytes": 4 * MIB}
"""Three databases have 1 MiB of their own and share 9 MiB; one of them can use 6 MiB of these."""


@pytest.mark.parametrize(
    ("databases", "server", "held", "limit"),
    [
        (1, SMALL, {}, 250),
        (2, SMALL, {}, 150),
        (2, SMALL, {"globex": 150}, 100),
        (2, SMALL, {"globex": 120}, 130),
        (3, LARGE, {}, 7 * MIB),
        (3, LARGE, {"globex": 7 * MIB}, 4 * MIB),
        (3, LARGE, {"globex": 7 * MIB, "initech": 4 * MIB}, MIB),
        (3, LARGE, {"globex": 3 * MIB, "initech": 4 * MIB}, 5 * MIB),
        (3, LARGE, {"globex": MIB, "initech": MIB}, 7 * MIB),
        (3, {**LARGE, "max_bytes_in_flight": 6 * MIB}, {}, 4 * MIB),
        (3, {**LARGE, "max_bytes_in_flight": 6 * MIB}, {"globex": 4 * MIB}, MIB),
    ],
)
def test_the_last_byte_that_fits_is_accepted_and_no_more(
    databases: int, server: dict[str, int], held: dict[str, int], limit: int
) -> None:
    admission = Admission(limits(databases, **server))

    with ExitStack() as in_flight:
        for database, size in held.items():
            in_flight.enter_context(admission.count_batch("loader", database)).increase_to(size)
        body = in_flight.enter_context(admission.count_batch("loader", "acme"))
        body.increase_to(limit - 1)
        in_flight.enter_context(admission.count_batch("loader", "acme")).increase_to(1)
        with pytest.raises(Problem):
            body.increase_to(limit)
    with admission.count_batch("loader", "acme") as body:
        body.increase_to(limit)


def test_new_limits_count_what_is_in_flight() -> None:
    admission = Admission(limits(1, max_batches_in_flight=1, **LARGE))

    with admission.count_batch("loader", "acme") as one:
        one.increase_to(4 * MIB)
        admission.set_limits(limits(2, max_batches_in_flight=2, **LARGE))
        with (
            admission.count_batch("loader", "acme") as two,
            admission.count_batch("loader", "globex") as other,
        ):
            two.increase_to(4 * MIB)
            with pytest.raises(Problem):
                two.increase_to(4 * MIB + 1)
            other.increase_to(4 * MIB)
