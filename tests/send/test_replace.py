"""Records that lack fields, which an update would erase: send needs --replace for them."""

from pathlib import Path
from typing import Any

import pytest

from service.wire import Item
from tests.harness.running import MakeService
from tests.harness.senders import Command, Front, as_json, as_ndjson, failures, serving
from tests.harness.service import KEY

ERASABLE = [
    *("careCaseClinicalTrialArm_ID", "careCaseClinicalTrialReason_ID"),
    *("careCaseClinicalTrialStudyPhase_ID", "case_Key", "comment", "disease"),
    *("inclusionExclusion", "location", "protocol_Number", "study_Drug", "study_Length"),
    *("study_Title", "website"),
]
WHOLE: dict[str, Any] = {KEY: 1, **dict.fromkeys(ERASABLE), "comment": "new", "disease": "new"}
STORED = [{KEY: key, "comment": "old", "website": "old"} for key in (1, 2)]


def lacking(*names: str) -> str:
    return f"it lacks {', '.join(names)}, which would become null in an update; add"


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
@pytest.mark.parametrize("check", [[], ["--check"]], ids=["", "check"])
async def test_a_csv_file_without_a_column_is_rejected_before_anything_is_sent(
    command: Command, tmp_path: Path, header: str, missing: list[str], check: list[str]
) -> None:
    (tmp_path / "good.ndjson").write_bytes(as_ndjson([WHOLE]))
    (tmp_path / "r.csv").write_text(f"{header}\n1{',' * header.count(',')}\n")

    async with serving(Front()) as front:
        address = ["--url", front.url]
        ended = await command.run("good.ndjson", "r.csv", *address, *check)
        sent = len(front.batches)
        replaced = await command.run("r.csv", *address, "--replace", *check)

    assert (ended.status, sent) == (2, 0)
    assert f"cannot read r.csv: {lacking(*missing)}" in ended.stderr
    assert "--replace" in ended.stderr
    assert replaced.status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.ndjson", "r.csv"]


async def test_a_csv_file_without_columns_can_create_records(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    await service.put(STORED)
    rows = [f"0,{number}\n" for number in range(1500)]
    path = tmp_path / "r.csv"
    path.write_text(f"{KEY},comment\n{''.join(rows)}1,new\n")

    mixed = await command.run("r.csv", "--url", service.url)
    stored = await service.comments()
    path.write_text(f"{KEY},comment\n{''.join(rows)}")
    created = await command.run("r.csv", "--url", service.url)

    assert mixed.status == 2
    assert "cannot read r.csv: after record 1500: it lacks careCase" in mixed.stderr
    assert stored[1] == "old"
    assert created.status == 0
    assert len(await service.comments()) == 1502


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
async def test_a_record_that_lacks_fields_is_rejected_and_the_others_are_stored(
    make_service: MakeService,
    command: Command,
    tmp_path: Path,
    write: Any,
) -> None:
    service = await make_service()
    await service.put(STORED)
    partial = {name: value for name, value in WHOLE.items() if name not in ("comment", "website")}
    records = [
        WHOLE, partial | {KEY: 2}, {KEY: 0, "comment": "created"}, {KEY: 2.0, "comment": "x"},
        {KEY: "2"}, {"comment": "x"}, {KEY: -7},
    ]  # fmt: skip
    (tmp_path / "r").write_bytes(write(records))

    checked = await command.run("r", "--url", service.url, "--check")
    ended = await command.run("r", "--url", service.url)

    assert (checked.status, ended.status) == (1, 1)
    assert f"\n  record 2: {lacking('comment', 'website')}" in checked.stdout
    assert "r: 7 records, 1 without a key, 5 bad\n" in checked.stdout
    assert "created   1\nupdated   1\nfailed    5 (400)\nsent      7 " in ended.stdout
    told = failures(tmp_path / "r.failed.ndjson")
    assert [(number, status, item) for number, status, _, item in told] == [
        (number, 400, records[number - 1]) for number in (2, 4, 5, 6, 7)
    ]
    assert told[0][2] == f"{lacking('comment', 'website')} them, or send this file with --replace"
    stored = await service.comments()
    assert sorted(map(str, stored.values())) == ["created", "new", "old"]

    again = await command.run("r.failed.ndjson", "--url", service.url)
    stored_again = await service.comments()
    replaced = await command.run("r.failed.ndjson", "--url", service.url, "--replace")

    assert (again.status, stored_again) == (1, stored)
    assert "created   1\nupdated   2\nfailed    2 (400)" in replaced.stdout
    assert await service.comments() == stored | {2: "x", -7: None}


async def test_records_that_are_rejected_keep_their_places_in_their_batches(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    """An interrupted run resumes, and records with key 0 are created once."""
    service = await make_service()
    records = [
        {KEY: 1} if number % 2 else {KEY: 0, "comment": str(number)} for number in range(3000)
    ]
    (tmp_path / "r").write_bytes(as_ndjson(records))

    await service.execute(  # fails the second batch
        """
        create function fail() returns trigger language plpgsql as $$ begin
            if new.comment = '1500' then raise 'busy' using errcode = '55P03'; end if;
            return new;
        end $$;
        create trigger fail before insert on care_case_clinical_trial
            for each row execute function fail()
        """
    )

    runs = []
    for _ in range(3):
        arguments = ["r", "--url", service.url, "--concurrency", "1", "--retries", "0"]
        runs.append(await command.run(*arguments))
        await service.execute("drop trigger if exists fail on care_case_clinical_trial")

    assert [run.status for run in runs] == [3, 1, 1]
    assert "created   500\nupdated   0\nfailed    500 (400)\nsent      1,000 " in runs[0].stdout
    for run in runs[1:]:
        assert "created   1,500\nupdated   0\nfailed    1,500 (400)\nsent      3,000 " in run.stdout
    stored = sorted(map(str, (await service.comments()).values()))
    assert stored == sorted(map(str, range(0, 3000, 2)))
    told = (tmp_path / "r.outcomes.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in told[1:]] == [str(n) for n in range(1, 3001)]
