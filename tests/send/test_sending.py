"""``python -m service send``: what a person with a file relies on."""

import asyncio
import gzip
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import MakeService
from tests.support.senders import (
    Command,
    Front,
    as_csv,
    as_json,
    as_ndjson,
    batches_of,
    failures,
    outcomes,
    problem,
    serving,
)
from tests.support.service import KEY


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

    result = await command.run("-", *address, stdin=as_ndjson(RECORDS))

    assert result.status == 0
    assert len(await service.comments()) == 3


async def test_what_a_pipe_holds_is_sent_while_it_goes_on(command: Command) -> None:
    async with serving(Front()) as front:
        process = await command.start("-", "--url", front.url, "--database", "acme")
        assert process.stdin is not None
        process.stdin.write(as_ndjson([{KEY: number} for number in range(1, 3001)]))
        await batches_of(front, 2)
        ended = await command.end(process, as_ndjson(RECORDS))

    assert ended.status == 0
    assert "sent      3,003 " in ended.stdout


async def test_a_stream_is_read_once_and_its_results_may_be_there_already(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    os.mkfifo(tmp_path / "pipe")
    arguments = ["--url", service.url, "--database", "acme"]
    content = as_ndjson([*RECORDS, {KEY: "x"}])

    for _ in range(2):
        await command.run("-", *arguments, stdin=content)
    process = await command.start("pipe", *arguments)
    await asyncio.to_thread((tmp_path / "pipe").write_bytes, content)
    piped = await command.end(process)

    assert piped.stdout.splitlines()[1] == "updated   3"
    assert sorted(os.listdir(tmp_path)) == [
        *("pipe", "stdin.failed.ndjson", "stdin.failed.ndjson.old")
    ]
    assert len(await service.comments()) == 3


async def test_records_that_fail_are_written_down_with_reasons_and_can_be_sent_again(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    address = ["--url", service.url, "--database", "acme"]
    rows = f"{KEY},comment\n1,a\nx,b\n,c\n4,d\n5,e,too many\n"
    (tmp_path / "r.csv").write_text(rows)

    first = await command.run("r.csv", *address)
    failed = tmp_path / "r.csv.failed.ndjson"
    written = failures(failed)
    failed.write_text(failed.read_text().replace('"x"', "2"))
    second = await command.run(failed.name, *address)

    assert first.status == 1
    assert "failed    3 (400)" in first.stdout
    assert stat.S_IMODE(failed.stat().st_mode) == 0o600
    assert [(number, status) for number, status, _, _ in sorted(written)] == [
        (2, 400),
        (3, 400),
        (5, 400),
    ]
    reasons = {number: reason for number, _, reason, _ in written}
    assert KEY in reasons[2]
    assert KEY in reasons[3]
    assert "3 cells" in reasons[5]
    assert (2, {KEY: "x", "comment": "b"}) in [(number, item) for number, *_, item in written]
    assert second.status == 1
    assert await service.comments() == {1: "a", 2: "b", 4: "d"}


async def test_csv_that_is_not_utf_8_is_told_with_its_place_and_goes_on_once_it_is(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    rows = f"{KEY},comment\n1,a\n2,größer\n3,c\n"
    (tmp_path / "r.csv").write_bytes(rows.encode("latin-1"))
    arguments = ["r.csv", "--url", service.url, "--database", "acme"]

    refused = await command.run(*arguments)
    (tmp_path / "r.csv").write_text(rows)
    corrected = await command.run(*arguments)

    assert refused.status == 2
    assert (
        "cannot read r.csv: after record 1: it is not in UTF-8; save it in UTF-8" in refused.stderr
    )
    assert corrected.status == 0
    assert await service.comments() == {1: "a", 2: "größer", 3: "c"}


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
    assert [reason for _, _, reason, _ in written] == [
        "not valid JSON: invalid character at byte 1",
        "comment: is not valid UTF-8",
    ]
    assert written[0][3] == "not JSON"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--token", "marker"], "the service returned 401: "),
        (
            ["--database", "marker"],
            "403: This database does not exist, or you do not have access to it.",
        ),
        (["--url", "{url}/marker"], "the service returned 404"),
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
        (["--retries", "0"], 3, "host 127.0.0.1:1 "),
        (["--retries", "0"], 3, ": Connection refused; run"),
        (["--url", "http://me:marker@x"], 2, "without credentials"),
        (["--url", "http://x?marker"], 2, "without credentials, query"),
        (["--url", "marker"], 2, "http://host:port"),
        (["--url", "http://x:999999"], 3, "check URL"),
        (["--outcomes", "{file}"], 2, "must not be that FILE"),
        (["--outcomes", "/"], 2, "is a directory"),
    ],
    ids=["host", "cause", "credentials", "query", "url", "port", "outcomes", "folder"],
)
async def test_what_cannot_be_sent_is_told_without_credentials(
    command: Command, tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    path = tmp_path / "r.ndjson"
    path.write_bytes(as_ndjson(RECORDS))
    arguments = [argument.replace("{file}", str(path)) for argument in arguments]
    usual = ["--url", "http://127.0.0.1:1", "--database", "acme", "--token", "t", "--api-key", "k"]

    result = await command.run(str(path), *usual, *arguments)

    assert result.status == status
    assert says in result.stderr
    assert "marker" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


async def test_a_credential_that_is_no_header_is_told_at_once_and_not_shown(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_bytes(as_json(RECORDS))

    async with serving(Front()) as front:
        arguments = ["r.json", "--url", front.url, "--database", "acme", "--token", "marker\n."]
        ended = await command.run(*arguments)

    assert ended.status == 3
    assert "headers" in ended.stderr
    assert "marker" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("harm", ["url", "database", "token", "none listens"])
async def test_nothing_is_left_where_nothing_was_sent_and_the_corrected_command_goes(
    make_service: MakeService, command: Command, tmp_path: Path, harm: str
) -> None:
    service = await make_service()
    (tmp_path / "r.json").write_bytes(as_json(RECORDS))
    arguments = ["r.json", "--url", service.url, "--database", "acme", "--retries", "0"]
    wrong = {
        "url": ["--url", f"{service.url}/elsewhere"],
        "database": ["--database", "elsewhere"],
        "token": ["--token", "wrong"],
        "none listens": ["--url", "http://127.0.0.1:1"],
    }[harm]

    refused = await command.run(*arguments, *wrong)
    left = os.listdir(tmp_path)
    corrected = await command.run(*arguments)

    assert refused.status == 3
    assert left == ["r.json"]
    assert (corrected.status, corrected.stderr) == (0, "")


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (problem(401), "; check SERVICE_API_KEY and SERVICE_TOKEN"),
        (problem(403), "; check --database\n"),
        (problem(404), "; check --url"),
        (problem(422), "the service returned 422: x\n"),
        (problem(503), "; run the same command again\n"),
    ],
    ids=["401", "403", "404", "422", "503"],
)
async def test_the_advice_fits_what_happened(
    command: Command, tmp_path: Path, answer: Any, advice: str
) -> None:
    (tmp_path / "r.json").write_bytes(as_json(RECORDS))

    async with serving(Front()) as front:
        front.answers = [answer]
        arguments = ["r.json", "--url", front.url, "--database", "acme", "--retries", "0"]
        ended = await command.run(*arguments)

    assert ended.status == 3
    assert advice in ended.stderr
    assert ended.stderr.count("again") == advice.count("again")


async def test_the_first_retry_is_told_with_its_reason_its_pause_and_its_number(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r.ndjson").write_bytes(as_ndjson([{KEY: 0}] * 4000))

    async with serving(Front()) as front:
        front.answers = [problem(503, "0")] * 4
        ended = await command.run("r.ndjson", "--url", front.url, "--database", "acme")

    assert ended.status == 0
    assert re.fullmatch(
        r"the service returned 503: x; attempt 2 in 0\.[3-5] s\n", ended.stderr
    )  # once for four batches


async def test_https_to_a_plain_port_is_told_at_once_as_that(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.json").write_bytes(as_json(RECORDS))
    url = service.url.replace("http:", "https:")

    ended = await command.run("r.json", "--url", url, "--database", "acme")

    assert ended.status == 3
    assert "wrong version number" in ended.stderr
    assert "check URL (https?)" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_record_without_key_whose_503_lasts_ends_the_run_and_is_not_called_failed(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_bytes(as_json([{KEY: 1}, {KEY: 0}]))

    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200), (0, 503))]
        arguments = ["r.json", "--url", front.url, "--database", "acme"]
        ended = await command.run(*arguments, "--retries", "0")
        left = os.listdir(tmp_path)
        again = await command.run(*arguments)

    assert ended.status == 3
    assert "1 records got 503: told; run the same command again\n" in ended.stderr
    assert left == ["r.json"]
    assert again.status == 0
    assert front.keys[0] == front.keys[1]


async def test_a_record_with_a_key_whose_503_lasts_goes_to_the_failed_ones(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r.json").write_bytes(as_json([{KEY: 1}, {KEY: 2}]))

    async with serving(Front()) as front:
        front.answers = [outcomes((1, 200), (2, 503))]
        arguments = ["r.json", "--url", front.url, "--database", "acme", "--retries", "0"]
        ended = await command.run(*arguments)

    assert ended.status == 1
    assert failures(tmp_path / "r.json.failed.ndjson") == [(2, 503, "told", {KEY: 2})]


async def test_outcomes_are_written_if_a_record_has_no_key_or_if_they_are_asked_for(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "named.json").write_bytes(
        as_json([{KEY: 7}, {KEY: "x"}, {KEY: 8, "case_Key": "x"}])
    )
    (tmp_path / "keyless.json").write_bytes(as_json([{KEY: 7}, {KEY: 0}]))
    address = ["--url", service.url, "--database", "acme"]

    await command.run("named.json", *address)
    assert not (tmp_path / "named.json.outcomes.csv").exists()
    await command.run("named.json", *address, "--outcomes", "told.csv")
    await command.run("keyless.json", *address)

    told = (tmp_path / "told.csv").read_text()
    assert told.split() == ["record,key,status", "1,7,200", "2,,400", "3,8,400"]
    (key,) = set(await service.comments()) - {7}
    told = (tmp_path / "keyless.json.outcomes.csv").read_text()
    assert told.split() == ["record,key,status", "1,7,200", f"2,{key},201"]


async def test_several_files_are_sent_one_after_the_other_each_with_its_own_results(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(as_ndjson([{KEY: 1}, {KEY: "x"}])))
    (tmp_path / "b.csv").write_bytes(as_csv([{KEY: 1, "comment": "later"}, {KEY: 0}]))

    ended = await command.run(*("a.ndjson.gz", "b.csv", "--url", service.url, "--database", "acme"))

    assert (ended.status, ended.stderr) == (1, "")
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["created", "2"],
        ["updated", "1"],
        ["failed", "1", "(400)"],
        ["sent", "4", "in", ended.stdout.split()[-6], "s"],
        ["reasons", "a.ndjson.gz.failed.ndjson"],
        ["outcomes", "b.csv.outcomes.csv"],
    ]
    assert (await service.comments())[1] == "later"


async def test_a_file_that_cannot_be_read_ends_the_command_before_the_first_is_sent(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_bytes(as_json(RECORDS))
    (tmp_path / "b.csv").write_text("commnt\n")

    async with serving(Front()) as front:
        ended = await command.run("a.json", "b.csv", "--url", front.url, "--database", "acme")

    assert ended.status == 2
    assert "cannot read b.csv: " in ended.stderr
    assert front.batches == []


async def test_check_tells_what_would_fail_and_sends_nothing(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "good.json").write_bytes(as_json([*RECORDS, {KEY: 0, "case_Key": 5.0}]))
    bad = [{KEY: 1, "commnt": "x"}, {KEY: 2}, {KEY: 3, "case_Key": 1.5}, {KEY: 2**31}, [], "x"]
    (tmp_path / "bad.ndjson").write_bytes(as_ndjson(bad) + b"no JSON\n")

    async with serving(Front()) as front:
        address = ["--check", "--url", front.url, "--database", "acme"]
        good = await command.run("good.json", *address)
        ended = await command.run("good.json", "bad.ndjson", *address)

    assert good.status == 0
    assert good.stdout == "good.json: 4 records, 1 with key 0, 0 invalid\n"
    assert ended.status == 1
    assert "bad.ndjson: 7 records, 0 with key 0, 6 invalid\n" in ended.stdout
    told = {line.partition(":")[0].strip(): line for line in ended.stdout.splitlines()}
    assert "commnt" in told["record 1"]
    assert "case_Key" in told["record 3"]
    assert {f"record {number}" for number in (1, 3, 4, 5, 6, 7)} <= told.keys()
    assert front.batches == []
    assert sorted(os.listdir(tmp_path)) == ["bad.ndjson", "good.json"]
