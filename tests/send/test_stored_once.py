"""Every record of a file is stored once, whatever happens to the command and to its answers."""

import asyncio
import csv
import json
import os
import random
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.running import MakeService
from tests.support.senders import (
    Command,
    Front,
    Run,
    as_ndjson,
    batches_of,
    failures,
    serving,
)
from tests.support.service import KEY, ServiceUnderTest

RECORDS = [
    {KEY: 0, "comment": str(number)}
    if number % 10 < 3
    else {KEY: 1_000_000 + number % 4_000, "comment": str(number)}
    if number % 20 != 19
    else {KEY: 0, "comment": str(number), "case_Key": "x"}
    for number in range(10_000)
]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


async def assert_stored_once(service: ServiceUnderTest, told: Path | None = None) -> None:
    """Compare the table with the file: keyless records once, of each key the last.

    And what was told of each record with the table.
    """
    rows = await service.fetch(
        "select care_case_clinical_trial_key, comment from care_case_clinical_trial"
    )
    good = [record for record in RECORDS if "case_Key" not in record]
    wanted = {record[KEY]: record["comment"] for record in good if record[KEY]}
    key_zero = Counter(record["comment"] for record in good if not record[KEY])
    assert {key: comment for key, comment in rows if key in wanted} == wanted
    assert Counter(comment for key, comment in rows if key not in wanted) == key_zero
    assert set(key_zero.values()) == {1}
    if told is not None:
        with told.open(newline="") as file:
            lines = list(csv.reader(file))
        assert lines[0] == ["record", "key", "status"]
        assert [int(line[0]) for line in lines[1:]] == [*range(1, len(RECORDS) + 1)]
        comments = {key: comment for key, comment in rows if key not in wanted}
        assert {
            int(key): RECORDS[int(number) - 1]["comment"]
            for number, key, status in lines[1:]
            if status == "201" and not RECORDS[int(number) - 1][KEY]
        } == comments


def assert_each_failure_told_once(folder: Path) -> None:
    told = [number for number, *_ in failures(folder / "r.ndjson.failed.ndjson")]
    assert told == [place for place, record in enumerate(RECORDS, 1) if "case_Key" in record]


@pytest.mark.parametrize("concurrency", ["1", pytest.param("4", marks=pytest.mark.slow)])
async def test_after_any_number_of_kills(
    make_service: MakeService, command: Command, tmp_path: Path, concurrency: str
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))
    dice = random.Random(int(concurrency))

    async with serving(Front(service)) as front:
        front.seconds = 0.05
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme"]
        arguments += ["--concurrency", concurrency]
        for _ in range(5):
            process = await command.start(*arguments)
            await batches_of(front, len(front.batches) + dice.randint(1, 3))
            await asyncio.sleep(dice.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            await command.end(process)
        ended = await command.run(*arguments)

    assert ended.status == 1
    assert "sent      10,000 " in ended.stdout
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)


@pytest.mark.parametrize("beginning", [signal.SIG_DFL, signal.SIG_IGN])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_after_an_interrupt_the_next_run_goes_on_where_it_ended(
    make_service: MakeService,
    command: Command,
    tmp_path: Path,
    number: signal.Signals,
    beginning: signal.Handlers,
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))

    async with serving(Front(service)) as front:
        front.seconds = 0.2
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme", "--concurrency", "2"]
        # Inherited; ignored by what a shell starts in the background.
        ours = signal.signal(signal.SIGINT, beginning)
        process = await command.start(*arguments)
        signal.signal(signal.SIGINT, ours)
        await batches_of(front, 5)
        process.send_signal(number)
        interrupted = await command.end(process)
        first_batch, sent = front.batches[0], len(front.batches)
        front.seconds = 0
        ended = await command.run(*arguments)

    assert interrupted.status == 130
    assert interrupted.stderr == "Interrupted; run the same command again to resume.\n"
    counts = re.search(r"\nsent      ([\d,]+) .*\nin flight ([12],000) ", interrupted.stdout)
    assert counts
    assert sum(int(count.replace(",", "")) for count in counts.groups()) >= sent * 1000
    assert ended.status == 1
    assert "sent      10,000 " in ended.stdout
    assert first_batch not in front.batches[sent:]
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        "r.ndjson", "r.ndjson.failed.ndjson", "r.ndjson.outcomes.csv",
    ]  # fmt: skip


async def test_when_a_finished_command_is_repeated(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))
    arguments = ["r.ndjson", "--url", service.url, "--database", "acme"]

    first = await command.run(*arguments)
    again = await command.run(*arguments)

    assert (first.status, again.status) == (1, 1)
    assert "failed    500 (400)" in again.stdout
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)


async def test_when_the_same_records_are_piped_again(
    make_service: MakeService, command: Command
) -> None:
    service = await make_service()
    arguments = ["-", "--url", service.url, "--database", "acme"]

    for _ in range(2):
        await command.run(*arguments, stdin=as_ndjson(RECORDS))

    await assert_stored_once(service)


async def test_when_the_command_is_started_twice_at_once(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))

    async with serving(Front(service)) as front:
        front.seconds = 2
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme"]
        first = await command.start(*arguments)
        await batches_of(front, 1)
        second = await command.start(*arguments)
        assert second.stderr is not None
        told = await second.stderr.readline()
        front.seconds = 0
        runs = await asyncio.gather(command.end(first), command.end(second))

    assert told == b"Another care-trials send is sending r.ndjson; waiting\n"
    assert [run.status for run in runs] == [1, 1], [run.stderr for run in runs]
    # Nothing but how far it is, where that took long.
    lines = [line for run in runs for line in run.stderr.splitlines()]
    assert all(line.startswith("r.ndjson: ") for line in lines)
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)


async def test_when_two_hosts_send_copies_at_once(
    make_service: MakeService, tmp_path: Path
) -> None:
    service = await make_service()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "r.ndjson").write_bytes(as_ndjson(RECORDS))
    shutil.copy2(folders[0] / "r.ndjson", folders[1])

    arguments = ["r.ndjson", "--url", service.url, "--database", "acme"]
    runs = await asyncio.gather(*(Command(folder).run(*arguments) for folder in folders))

    assert [(run.status, run.stderr) for run in runs] == [(1, ""), (1, "")]
    await assert_stored_once(service)


async def test_when_answers_are_cut(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))

    async with serving(Front(service)) as front:
        front.cut_every = 3
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme"]
        ended = await command.run(*arguments)

    assert len(front.batches) > 10
    assert ended.status == 1
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)


async def test_when_some_items_of_a_batch_get_503_for_a_while(
    make_service: MakeService, command: Command, tmp_path: Path
) -> None:
    service = await make_service()
    await service.execute(
        """
        create sequence tries;
        create function be_busy() returns trigger language plpgsql as $$ begin
            if new.comment in ('1', '2', '44', '133') and nextval('tries') < 12 then
                raise 'busy' using errcode = '55P03';
            end if;
            return new;
        end $$;
        create trigger be_busy before insert on care_case_clinical_trial
            for each row execute function be_busy()
        """
    )
    (tmp_path / "r.ndjson").write_bytes(as_ndjson(RECORDS))

    async with serving(Front(service)) as front:
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme"]
        ended = await command.run(*arguments)

    assert len(front.batches) > 10
    assert ended.status == 1
    await assert_stored_once(service, tmp_path / "r.ndjson.outcomes.csv")
    assert_each_failure_told_once(tmp_path)


@pytest.mark.slow
async def test_of_a_large_file_under_everything_at_once(
    make_service: MakeService, tmp_path: Path
) -> None:
    """Interrupted five times, sent from two hosts at once, every tenth answer cut."""
    service = await make_service()
    count = 200_000
    with (tmp_path / "r.ndjson").open("wb") as file:
        for number in range(count):
            record: dict[str, object] = {KEY: 0 if number % 10 == 3 else 1_000_000_000 + number}
            record |= {"case_Key": "x"} if number % 100 == 50 else {"case_Key": number}
            file.write(json.dumps(record).encode() + b"\n")
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(tmp_path / "r.ndjson", folder)

    async with serving(Front(service)) as front:
        front.cut_every = 10
        arguments = ["r.ndjson", "--url", front.url, "--database", "acme"]

        async def send(folder: Path) -> Run:
            for _ in range(5):
                process = await Command(folder).start(*arguments)
                await batches_of(front, len(front.batches) + 25)
                process.send_signal(signal.SIGINT)
                interrupted = await Command(folder).end(process)
                assert interrupted.status in (1, 130)
            return await Command(folder).run(*arguments, seconds=300)

        ends = await asyncio.gather(*map(send, folders))

    assert [end.status for end in ends] == [1, 1]
    assert [line for line in ends[0].stdout.splitlines() if line.startswith("failed")] == [
        "failed    2,000 (400)"
    ]
    ((stored, distinct, key_zero),) = await service.fetch(
        """
        select count(*), count(distinct case_key), count(*) filter (
            where care_case_clinical_trial_key < 1000000000
        )
        from care_case_clinical_trial
        """
    )
    assert (stored, distinct, key_zero) == (count - 2000, count - 2000, count // 10)
