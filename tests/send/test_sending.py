"""``python -m service send``: what a person with a file relies on."""

import os
import signal
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.send.command import send_command
from tests.harness.running import MakeService
from tests.harness.senders import (
    Command,
    Front,
    as_csv,
    as_json,
    as_ndjson,
    batches_of,
    failures,
    serving,
)
from tests.harness.service import KEY


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


RECORDS = [
    {KEY: 1, "case_Key": 5, "comment": 'two\nlines, "quoted"', "entry_Date": "2025-01-02"},
    {KEY: 2, "comment": "größer"},
    {KEY: 3},
]


@pytest.mark.parametrize(
    ("name", "content"),
    [("r.json", as_json(RECORDS)), ("r.ndjson", as_ndjson(RECORDS)), ("r.csv", as_csv(RECORDS))],
    ids=["json", "ndjson", "csv"],
)
async def test_a_file_of_each_format_is_stored(
    make_service: MakeService, command: Command, tmp_path: Path, name: str, content: bytes
) -> None:
    service = await make_service()
    (tmp_path / name).write_bytes(content)

    result = await command.run(name, "--url", service.url, "--database", "acme")

    assert (result.status, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()[:2]] == [
        ["created", "3"],
        ["updated", "0"],
    ]
    assert await service.fetch(
        "select care_case_clinical_trial_key, case_key, comment from care_case_clinical_trial"
        " order by 1"
    ) == [(1, 5, 'two\nlines, "quoted"'), (2, None, "größer"), (3, None, None)]
    assert os.listdir(tmp_path) == [name]


async def test_standard_input_is_sent(make_service: MakeService, command: Command) -> None:
    service = await make_service(base_path="/vbasoftware")
    address = ["--url", f"{service.url}/vbasoftware/", "--database", "acme"]

    result = await command.run("-", *address, "--format", "ndjson", stdin=as_ndjson(RECORDS))

    assert result.status == 0
    assert len(await service.comments()) == 3


async def test_records_that_fail_are_written_down_with_reasons_and_can_be_sent_again(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    address = ["--url", service.url, "--database", "acme"]
    rows = f"{KEY},comment\n1,a\nx,b\n,c\n4,d\n5,e,too many\n6,\xff\n".encode("latin-1")
    (tmp_path / "r.csv").write_bytes(rows)

    first = await command.run("r.csv", *address)
    failed = tmp_path / "r.csv.failed.ndjson"
    written = failures(failed)
    failed.write_text(failed.read_text().replace('"x"', "2"))
    second = await command.run(failed.name, *address)

    assert first.status == 1
    assert "failed    4 (400)" in first.stdout
    assert stat.S_IMODE(failed.stat().st_mode) == 0o600
    assert [(number, status) for number, status, _, _ in sorted(written)] == [
        (2, 400),
        (3, 400),
        (5, 400),
        (6, 400),
    ]
    reasons = {number: reason for number, _, reason, _ in written}
    assert KEY in reasons[2]
    assert KEY in reasons[3]
    assert "3 cells" in reasons[5]
    assert "UTF-8" in reasons[6]
    assert (2, {KEY: "x", "comment": "b"}) in [(number, item) for number, *_, item in written]
    assert second.status == 1
    # The fields of the row with too many cells are themselves in order.
    assert await service.comments() == {1: "a", 2: "b", 4: "d", 5: "e"}


async def test_a_line_that_is_not_json_spoils_no_other(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(
        b'{"%b": 1}\n\nnot JSON\n{"comment": "\xff"}\n{"%b": 2}' % (KEY.encode(), KEY.encode())
    )

    result = await command.run("r.ndjson", "--url", service.url, "--database", "acme")

    assert result.status == 1
    assert set(await service.comments()) == {1, 2}
    written = failures(tmp_path / "r.ndjson.failed.ndjson")
    assert [(number, status) for number, status, _, _ in written] == [(2, 400), (3, 400)]
    assert written[0][3] == "not JSON"


async def test_batches_beyond_the_limits_of_the_service_are_halved(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service(max_batch_items=3, max_body_bytes=1000)
    records = [{KEY: key, "comment": "x" * (2000 if key == 5 else 1)} for key in range(1, 12)]
    (tmp_path / "r.json").write_bytes(as_json(records))

    result = await command.run("r.json", "--url", service.url, "--database", "acme")

    assert result.status == 1
    assert set(await service.comments()) == set(range(1, 12)) - {5}
    assert [failure[:2] for failure in failures(tmp_path / "r.json.failed.ndjson")] == [(5, 413)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--token", "marker"], "the service answered 401: "),
        (["--database", "marker"], "403: The caller may not use this database."),
        (["--url", "{url}/marker"], "the service answered 404"),
    ],
    ids=["token", "database", "path"],
)
async def test_a_refusal_ends_the_run_with_what_the_service_says(
    make_service: MakeService, command: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    service = await make_service()
    (tmp_path / "r.json").write_bytes(as_json(RECORDS))
    arguments = [argument.replace("{url}", service.url) for argument in arguments]

    result = await command.run("r.json", "--url", service.url, "--database", "acme", *arguments)

    assert result.status == 3
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "marker" not in result.stdout + result.stderr
    assert not (tmp_path / "r.json.failed.ndjson").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--retries", "0"], 3, "the service cannot be reached; repeat the command"),
        (["--url", "http://me:marker@x"], 2, "no credentials"),
        (["--url", "marker"], 2, "http://host:port"),
        (["--api-key", "marker\n."], 2, "visible ASCII"),
        (["--format", "csv"], 2, f"names {KEY}"),
        (["--format", "json"], 2, "expected a JSON array"),
        (["--failed", "{file}"], 2, "FILE itself"),
    ],
    ids=["unreachable", "credentials", "url", "key", "csv", "json", "failed"],
)
def test_what_cannot_be_sent_is_told_without_credentials(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    path = tmp_path / "r.ndjson"
    path.write_bytes(as_ndjson(RECORDS))
    arguments = [argument.replace("{file}", str(path)) for argument in arguments]
    usual = ["--url", "http://127.0.0.1:1", "--database", "acme", "--token", "t", "--api-key", "k"]

    result = CliRunner().invoke(send_command, [str(path), *usual, *arguments])

    assert result.exit_code == status
    assert says in result.stderr
    assert "marker" not in result.output
    assert "Traceback" not in result.stderr


async def test_an_interrupted_run_finishes_what_it_began_and_the_next_goes_on(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson([{KEY: 0, "comment": "x"}] * 30))

    async with serving(Front(service)) as front:
        front.seconds = 0.2
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme", "--batch-size", "5"]
        process = await command.start(*arguments, "--concurrency", "2")
        await batches_of(front, 3)
        process.send_signal(signal.SIGINT)
        interrupted = await command.end(process)
        stored = len(await service.comments())
        elsewhere = await command.run(*arguments, "--database", "globex")
        front.seconds = 0
        resumed = await command.run(*arguments)

    assert interrupted.status == 130
    assert 10 <= stored < 30
    assert elsewhere.status == 2
    assert "the database differs" in elsewhere.stderr
    assert resumed.status == 0
    assert resumed.stdout.startswith("created   30\n")
    assert len(await service.comments()) == 30
    assert os.listdir(tmp_path) == ["r.ndjson"]
