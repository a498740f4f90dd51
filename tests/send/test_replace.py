"""Records that lack fields, which an update would erase: send needs --replace for them."""

from pathlib import Path
from typing import Any

import pytest

from service.send.records import Records, Unreadable
from service.wire import Item
from tests.support.running import MakeService
from tests.support.senders import (
    Command,
    Front,
    as_csv,
    as_json,
    as_ndjson,
    failures,
    outcomes,
    serving,
)
from tests.support.service import KEY

ERASABLE = [
    *("careCaseClinicalTrialArm_ID", "careCaseClinicalTrialReason_ID"),
    *("careCaseClinicalTrialStudyPhase_ID", "case_Key", "comment", "disease"),
    *("inclusionExclusion", "location", "protocol_Number", "study_Drug", "study_Length"),
    *("study_Title", "website"),
]
WHOLE: dict[str, Any] = {KEY: 1, **dict.fromkeys(ERASABLE), "comment": "new", "disease": "new"}
STORED = [{KEY: key, "comment": "old", "website": "old"} for key in (1, 2)]


def lacking(*names: str) -> str:
    found = f"it lacks {', '.join(names)}, which would become null in an update; add them, or"
    return f"{found} send this file with --replace\n"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, "--database", "acme")


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        (f"{KEY},disease", [name for name in ERASABLE if name != "disease"]),
        (",".join([KEY, *ERASABLE[:-1]]), ["website"]),
        (",".join(Item.__struct_fields__[:-1]), ["website"]),
    ],
    ids=["most", "one", "columns as COPY writes them"],
)
async def test_a_csv_file_without_a_column_is_rejected_before_anything_is_sent(
    command: Command, tmp_path: Path, header: str, missing: list[str]
) -> None:
    (tmp_path / "good.ndjson").write_bytes(as_ndjson([WHOLE]))
    (tmp_path / "r.csv").write_text(f"{header}\n1{',' * header.count(',')}\n")

    async with serving(Front()) as front:
        address = ["--url", front.url]
        checked = await command.run("r.csv", *address, "--check")
        ended = await command.run("good.ndjson", "r.csv", *address)
        sent = len(front.batches)
        checked_again = await command.run("r.csv", *address, "--replace", "--check")
        replaced = await command.run("r.csv", *address, "--replace")

    assert (checked.status, ended.status, sent) == (1, 2, 0)
    assert f"\n  record 1: {lacking(*missing)}" in checked.stdout
    assert ended.stderr == f"Error: cannot read r.csv: record 1: {lacking(*missing)}"
    assert (checked_again.status, replaced.status) == (0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.ndjson", "r.csv"]


async def test_an_empty_cell_erases_what_its_column_names_and_a_failed_row_can_be_corrected(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    await service.put(STORED)
    header = ",".join([KEY, *ERASABLE])
    (tmp_path / "r.csv").write_text(f"{header}\n1,,,,,new,,,,,,,,\nx,,,,,,new,,,,,,,\n")

    ended = await command.run("r.csv", "--url", service.url)
    failed = tmp_path / "r.csv.failed.ndjson"
    failed.write_text(failed.read_text().replace('"x"', "2"))
    corrected = await command.run(failed.name, "--url", service.url)

    assert (ended.status, corrected.status) == (1, 0)
    assert await service.fetch(
        "select comment, disease, website from care_case_clinical_trial order by"
        " care_case_clinical_trial_key"
    ) == [("new", None, None), (None, "new", None)]


@pytest.mark.parametrize("write", [as_json, as_ndjson], ids=["json", "ndjson"])
async def test_the_first_record_that_lacks_fields_ends_the_run_unless_it_replaces(
    make_service: MakeService, command: Command, tmp_path: Path, write: Any
) -> None:
    service = await make_service()
    await service.put(STORED)
    partial = {name: value for name, value in WHOLE.items() if name not in ("comment", "website")}
    records = [
        WHOLE, {KEY: 0, "comment": "created"}, {KEY: "2"}, {"comment": "x"}, {KEY: True},
        partial | {KEY: 2}, {KEY: 2.0, "comment": "x"}, {KEY: -7, "case_Key": "8"},
    ]  # fmt: skip
    (tmp_path / "r").write_bytes(write(records))
    arguments = ["r", "--url", service.url]

    checked = await command.run(*arguments, "--check")
    ended = await command.run(*arguments)
    stored = await service.comments()
    replaced = await command.run(*arguments, "--replace")

    assert (checked.status, ended.status, replaced.status) == (1, 2, 1)
    assert "r: 8 records, 1 with key 0, 6 invalid\n" in checked.stdout
    assert f"\n  record 6: {lacking('comment', 'website')}" in checked.stdout
    assert ended.stderr == f"Error: cannot read r: record 6: {lacking('comment', 'website')}"
    assert "sent      0 " in ended.stdout
    assert stored == {1: "old", 2: "old"}
    assert "created   1\nupdated   3\nfailed    4 (400)\nsent      8 " in replaced.stdout
    failed = tmp_path / "r.failed.ndjson"
    assert [(number, item) for number, _, _, item in failures(failed)] == [
        (number, records[number - 1]) for number in (3, 4, 5, 8)
    ]

    failed.write_text(failed.read_text().replace('"8"', "8"))
    again = await command.run(failed.name, "--url", service.url)
    replaced = await command.run(failed.name, "--url", service.url, "--replace")

    assert again.status == 2
    assert f"cannot read {failed.name}: record 4: it lacks careCase" in again.stderr
    assert "created   1\nupdated   0\nfailed    3 (400)\n" in replaced.stdout
    assert sorted(map(str, (await service.comments()).values())) == ["None", "created", "new", "x"]


@pytest.mark.parametrize(
    ("write", "place", "sent"),
    [
        (as_ndjson, 0, 0),
        (as_ndjson, 999, 0),
        (as_ndjson, 1000, 1000),
        (as_ndjson, 2500, 2000),
        (as_ndjson, 3999, 3000),
        (as_csv, 2500, 2000),
        (as_json, 2500, 0),
    ],
    ids=[
        "first", "last of a batch", "first of a batch", "within a batch", "last", "csv", "json",
    ],
)  # fmt: skip
async def test_a_run_with_replace_resumes_before_the_batch_and_stores_each_record_once(
    make_service: MakeService,
    command: Command,
    tmp_path: Path,
    write: Any,
    place: int,
    sent: int,
) -> None:
    service = await make_service()
    records = [{KEY: 0, "comment": str(number)} for number in range(4000)]
    records[place][KEY] = 1_000_000
    (tmp_path / "r").write_bytes(write(records))

    async with serving(Front(service)) as front:
        front.seconds = 0.2
        arguments = ["r", "--url", front.url, "--concurrency", "3"]
        runs = [await command.run(*arguments) for _ in range(2)]
        batches = len(front.batches)
        replaced = await command.run(*arguments, "--replace")

    for run in runs:
        assert run.status == 2
        assert f"cannot read r: record {place + 1}: it lacks" in run.stderr
        assert f"created   {sent:,}\nupdated   0\nsent      {sent:,} in " in run.stdout
        assert "in flight" not in run.stdout
    assert (replaced.status, batches, len(front.batches)) == (0, sent // 1000, 4)
    assert "created   4,000\nupdated   0\nsent      4,000 " in replaced.stdout
    stored = (await service.comments()).values()
    assert sorted(map(str, stored)) == sorted(map(str, range(4000)))


@pytest.mark.parametrize(
    "content",
    [as_ndjson([{KEY: 0}] * 3 + [{KEY: 1}]), f"{KEY}\n0\n0\n0\n1\n".encode()],
    ids=["ndjson", "csv"],
)
async def test_the_records_before_one_that_lacks_fields_are_read_first(
    tmp_path: Path, content: bytes
) -> None:
    """They can fill several batches, if they are long."""
    (tmp_path / "r").write_bytes(content)
    with (tmp_path / "r").open("rb") as source:
        records = aiter(Records(source))
        read = [await anext(records) for _ in range(3)]
        with pytest.raises(Unreadable, match="/r: record 4: it lacks"):
            await anext(records)

    assert read == [{KEY: 0}] * 3


async def test_a_run_that_replaced_goes_on_only_with_replace(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(as_ndjson([{KEY: 0}] * 500 + [{KEY: 1}] * 501 + [{KEY: 0}] * 499))
    async with serving(Front()) as front:
        front.answers = [outcomes(*[(1, 200)] * 1000), outcomes(*[(0, 503)] * 500)]
        arguments = ["r", "--url", front.url, "--concurrency", "1", "--retries", "0"]
        runs = [await command.run(*arguments, *more) for more in (["--replace"], [], ["--replace"])]

    assert [run.status for run in runs] == [3, 2, 0]
    assert "cannot read r: record 1001: it lacks" in runs[1].stderr
    assert "sent      1,500 " in runs[2].stdout
    assert [len(batch) for batch in front.batches] == [1000, 500, 500]
