"""One JSON line for each request and each failed chunk; readable lines on a terminal."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.support.running import StartProcess
from tests.support.service import KEY, PATH, RECORDS, token

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_each_request_is_one_json_line_that_names_what_an_operator_asks_for(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()

    stored = await service.put(
        [{KEY: 1}, {KEY: 2, "case_Key": "x"}],
        headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "User-Agent": "loader/1"},
    )
    refused = await service.put([], headers={"x-api-key": "wrong", "traceparent": "nonsense"})
    (log,) = tmp_path.glob("log-*")
    # The check at startup would report the renamed table as well.
    while "database acme: ready" not in log.read_text():
        await asyncio.sleep(0.01)
    await service.execute("alter table care_case_clinical_trial rename to gone")
    failed = await service.put([{KEY: key} for key in range(1, 2_000)])
    process.terminate()
    process.wait(10)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = {line["activityID"]: line for line in lines if line["message"] == "request"}
    assert len(requests) == 3
    line = requests[stored.headers["X-Activity-ID"]]
    assert line["traceID"] == TRACE
    assert line["caller"] == "loader"
    assert line["database"] == "acme"
    assert line["status"] == 207
    assert line["outcomes"] == {"201": 1, "400": 1}
    assert (line["method"], line["path"]) == ("PUT", PATH)
    assert (line["client"], line["userAgent"]) == ("127.0.0.1", "loader/1")
    assert line["items"] == 2
    assert line["bytes"] == len(json.dumps([{KEY: 1}, {KEY: 2, "case_Key": "x"}]))
    assert "reason" not in line
    assert 0 < line["seconds"] < 10
    assert line["level"] == "INFO"
    refusal = requests[refused.envelope["debug"]["activityID"]]
    assert (refusal["status"], refusal["reason"]) == (401, "api_key")
    assert {"traceID", "caller", "database", "outcomes"}.isdisjoint(refusal)
    # One line for the batch, not one for each of its items.
    (failure,) = [line for line in lines if line["level"] == "ERROR"]
    assert failure["activityID"] == failed.headers["X-Activity-ID"]
    assert failure["sqlstate"] == "42P01"
    assert failure["database"] == "acme"


async def test_every_line_that_a_request_causes_bears_its_activity_id(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()
    other = {"Authorization": f"Bearer {token('x' * 64)}"}

    refused = await service.put([], headers=other)
    stored = await service.put([{KEY: 1}])
    process.terminate()
    process.wait(10)

    lines = [json.loads(line) for line in (tmp_path / "log-0").read_text().splitlines()]
    (cause,) = [line for line in lines if line["message"] == "token rejected"]
    (refusal,) = [line for line in lines if line.get("status") == 401]
    assert cause["cause"] == "wrong signature"
    assert cause["activityID"] == refusal["activityID"] == refused.headers["X-Activity-ID"]
    assert refusal["reason"] == "token"
    assert stored.headers["X-Activity-ID"] in {line.get("activityID") for line in lines}
    # What no request caused bears none, although one came before.
    for line in lines:
        if line["message"] in ("serving", "stopped") or line["message"].startswith("draining"):
            assert "activityID" not in line


async def test_what_a_client_says_of_itself_is_cut_and_harms_no_terminal(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()
    head = b"GET /%1b[31m/%C3%BC HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: \xff, 192.0.2.1\r\n"
    head += b"Connection: close\r\n"

    answer = await service.raw(head + b"User-Agent: \xff" + b"x" * 1000 + b"\r\n\r\n")
    process.terminate()
    process.wait(10)

    assert answer.startswith(b"HTTP/1.1 404")
    lines = [json.loads(line) for line in (tmp_path / "log-0").read_text().splitlines()]
    (line,) = [line for line in lines if line["message"] == "request"]
    assert (line["status"], line["reason"]) == (404, "path")
    assert line["path"].startswith("/\\x1b[31m/")
    assert line["path"].isprintable()
    assert line["userAgent"].startswith("\\udcffx")
    assert len(line["userAgent"]) < 220
    assert line["forwardedFor"] == "\\udcff, 192.0.2.1"


def test_on_a_terminal_lines_are_for_people() -> None:
    mine, its = pty.openpty()
    code = "import logging; from service.telemetry import logs; logs.configure();"
    code += "logging.getLogger('x').info('request', extra={'status': 207})"

    subprocess.run([sys.executable, "-c", code], stderr=its, check=True)
    line = os.read(mine, 1000).decode()

    assert "INFO    request  status=207" in line
    os.close(mine)
    os.close(its)


async def test_single_records_are_logged_by_their_route_and_what_became_of_them(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process(allow=["read", "write", "delete"])
    marker = "planted-marker"

    await service.ask("POST", "", {KEY: 471147, "comment": marker})
    await service.ask("GET", "/471147")
    await service.ask("GET", f"?sortBy={marker}")
    await service.ask("PUT", "/471147", {KEY: 471147, "case_Key": marker})
    await service.ask("DELETE", "/471147")
    await service.ask("DELETE", "/471147")
    process.terminate()
    process.wait(10)

    (log,) = tmp_path.glob("log-*")
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    one = f"{RECORDS}/{{key}}"
    assert [
        (line["method"], line["path"], line["status"], line.get("outcomes"), line.get("reason"))
        for line in requests
    ] == [
        ("POST", RECORDS, 201, {"201": 1}, None),
        ("GET", one, 200, None, None),
        ("GET", RECORDS, 400, None, "query"),
        ("PUT", one, 400, {"400": 1}, "item"),
        ("DELETE", one, 204, {"204": 1}, None),
        ("DELETE", one, 404, {"404": 1}, "not_found"),
    ]
    assert all((line["caller"], line["database"]) == ("loader", "acme") for line in requests)
    assert marker not in text
    assert "471147" not in text
