"""The count of batches and bytes in flight, to the last one."""

import pytest

from service.config import Server
from service.http.admission import Admission
from service.http.envelope import Problem


def test_the_last_batch_and_the_last_byte_that_fit_are_taken_and_no_more() -> None:
    settings = Server(max_batches_in_flight=2, max_bytes_in_flight=250, max_body_bytes=100)
    admission = Admission(settings)

    with admission.batch("acme"), admission.batch("acme"), pytest.raises(Problem):
        admission.batch("acme").__enter__()
    with admission.batch("acme") as body, admission.batch("globex") as other:
        body.grow_to(149)
        other.grow_to(101)
        with pytest.raises(Problem):
            body.grow_to(150)


def test_one_database_leaves_room_for_the_largest_body_of_another() -> None:
    settings = Server(max_bytes_in_flight=250, max_body_bytes=100)
    admission = Admission(settings)

    with admission.batch("acme") as one, admission.batch("acme") as two:
        one.grow_to(100)
        two.grow_to(50)
        with pytest.raises(Problem):
            two.grow_to(51)
        with admission.batch("globex") as other:
            other.grow_to(100)
