"""Planted markers: no field value and no secret is in a log, an answer, or a settings' repr."""

import subprocess
import sys
from pathlib import Path

import pytest

from service import config
from tests.support.configuration import document, toml
from tests.support.running import MakeService, StartProcess
from tests.support.service import KEY, token

MARKER = "planted-marker"
REFUSALS = """
    alter table care_case_clinical_trial add check (disease <> 'planted-marker check');
    create unique index on care_case_clinical_trial (website);
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.comment like 'planted-marker internal%' then
            raise exception '%', new.comment using errcode = 'XX000';
        end if;
        return new;
    end $$;
    create trigger refuse before insert or update on care_case_clinical_trial
        for each row execute function refuse();
"""


async def test_no_field_value_is_in_the_log_or_in_an_outcome(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service, process = await start_process()
    await service.execute(REFUSALS)

    answer = await service.put(
        [
            {KEY: 1, "comment": MARKER, "website": MARKER},
            {KEY: 2, "website": MARKER},
            {KEY: 3, "disease": f"{MARKER} check"},
            {KEY: 4, "comment": f"{MARKER} internal"},
            {KEY: 5, "case_Key": MARKER},
            {KEY: 6, "entry_Date": MARKER},
            {KEY: 7, "comment": f"{MARKER}\0"},
            {KEY: 8, "entry_User": MARKER * 5},
            {KEY: 9, "comment": 5, "location": MARKER},
            MARKER,
            {KEY: MARKER},
            {KEY: 0, "website": MARKER},
        ],
        headers={"Authorization": f"Bearer {token(sub=MARKER)}", "Referer": MARKER},
    )
    for body in (f'["{MARKER}"', f'{{"{MARKER}": 1}}', MARKER):
        refused = await service.put(body.encode())
        assert refused.status == 400
        assert MARKER.encode() not in refused.body
    await service.raw(f"PUT /{MARKER} HTTP/1.1\r\n{MARKER}\r\n\r\n".encode())
    process.terminate()
    process.wait(10)

    assert answer.statuses == [201, 409, 400, 500, *[400] * 7, 409]
    assert MARKER.encode() not in answer.body
    (log,) = tmp_path.glob("log-*")
    assert "activityID" in log.read_text()
    assert MARKER not in log.read_text()


async def test_no_field_value_or_credential_is_logged_at_any_level(
    make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await make_service()
    await service.execute(
        "alter table care_case_clinical_trial add check (comment not like 'marker%')"
    )
    caplog.set_level("DEBUG")

    await service.put(
        [{KEY: 1, "comment": "marker-a"}, {KEY: "marker-b"}, {"marker-c": 1}],
        headers={"vbasoftware-database": "acme", "X-Other": "marker-d"},
    )
    await service.put([], headers={"x-api-key": "marker-e"})
    await service.put([], headers={"Authorization": "Bearer marker-f"})
    await service.raw(b"GET /marker-g HTTP/9.9\r\nmarker-h\r\n\r\n")

    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    logged = "\n".join(
        line for line in logged.splitlines() if "service." in line or "aiohttp" in line
    )
    assert "rejected" in logged
    assert "marker" not in logged


def test_no_secret_is_in_a_repr_or_in_what_the_commands_print(tmp_path: Path) -> None:
    content = document({"acme": f"postgresql://user:{MARKER}@127.0.0.1:1/acme?password={MARKER}"})
    content["auth"]["jwt"]["secret"] = MARKER * 5
    path = tmp_path / "service.toml"
    path.write_text(toml(content))

    settings = config.load(path)
    printed = [f"{settings!r} {settings} {settings.auth!r} {settings.databases!r}"]
    for command in ("check-config", "migrate"):
        result = subprocess.run(
            [sys.executable, "-m", "service", command, "--config", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        printed.append(result.stdout + result.stderr)

    assert all(printed)
    assert MARKER not in "".join(printed)
