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
    with admission.body() as body:
        body.grow_to(250)
        with pytest.raises(Problem):
            body.grow_to(251)
