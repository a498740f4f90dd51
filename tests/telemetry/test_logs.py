"""One JSON line for each request and each failed chunk; readable lines on a terminal."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.harness.running import StartProcess
from tests.harness.service import KEY

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_each_request_is_one_json_line_that_names_what_an_operator_asks_for(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()

    stored = await service.put(
        [{KEY: 1}, {KEY: 2, "case_Key": "x"}],
        headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
    )
    refused = await service.put([], headers={"x-api-key": "wrong", "traceparent": "nonsense"})
    await service.execute("alter table care_case_clinical_trial rename to gone")
    failed = await service.put([{KEY: key} for key in range(1, 2_000)])
    process.terminate()
    process.wait(10)

    (log,) = tmp_path.glob("log-*")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = {line["activityID"]: line for line in lines if line["message"] == "request"}
    assert len(requests) == 3
    line = requests[stored.headers["X-Activity-ID"]]
    assert line["traceID"] == TRACE
    assert line["caller"] == "loader"
    assert line["database"] == "acme"
    assert line["status"] == 207
    assert line["outcomes"] == {"201": 1, "400": 1}
    assert line["seconds"] >= 0
    assert line["level"] == "INFO"
    refusal = requests[refused.envelope["debug"]["activityID"]]
    assert refusal["status"] == 401
    assert {"traceID", "caller", "database", "outcomes"}.isdisjoint(refusal)
    # One line for the batch, not one for each of its items.
    (failure,) = [line for line in lines if line["level"] == "ERROR"]
    assert failure["activityID"] == failed.headers["X-Activity-ID"]
    assert failure["sqlstate"] == "42P01"
    assert failure["database"] == "acme"


def test_on_a_terminal_lines_are_for_people() -> None:
    mine, its = pty.openpty()
    code = "import logging; from service.telemetry import logs; logs.configure();"
    code += "logging.getLogger('x').info('request', extra={'status': 207})"

    subprocess.run([sys.executable, "-c", code], stderr=its, check=True)
    line = os.read(mine, 1000).decode()

    assert "INFO    request  status=207" in line
    os.close(mine)
    os.close(its)
