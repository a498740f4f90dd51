"""How far a file is sent: what a later run goes on with, and when it must not."""

import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest

from service.client import Outcome
from service.send.progress import Progress
from service.send.records import Unreadable
from tests.support.senders import Command, Front, as_ndjson, failures, outcomes, problem, serving
from tests.support.service import KEY

RECORDS: list[Any] = [{KEY: 1}, {KEY: 2}, ["cut"], "no JSON", {KEY: 5}]


def pairs(*records: Any) -> list[tuple[Any, Outcome]]:
    return [(record, Outcome(None, 400, "why")) for record in records]


def progress_of(folder: Path, destination: str = "http://x acme") -> Progress:
    return Progress(folder / "r.progress", destination)


def resumed(progress: Progress, records: list[Any]) -> list[list[tuple[Any, Outcome]]]:
    return list(progress.resume(iter(records)))


def test_what_is_kept_is_resumed_batch_by_batch_and_the_rest_is_left(tmp_path: Path) -> None:
    progress_of(tmp_path).append(pairs(*RECORDS[:2]))
    progress_of(tmp_path).append(pairs(*RECORDS[2:4]))

    rest = iter(RECORDS)

    assert list(progress_of(tmp_path).resume(rest)) == [pairs(*RECORDS[:2]), pairs(*RECORDS[2:4])]
    assert list(rest) == RECORDS[4:]


@pytest.mark.parametrize("torn", range(1, 40, 6))
def test_what_a_killed_run_kept_in_part_is_sent_again(tmp_path: Path, torn: int) -> None:
    progress = progress_of(tmp_path)
    progress.append(pairs(*RECORDS[:2]))
    progress.append(pairs(*RECORDS[2:4]))
    progress.path.write_bytes(progress.path.read_bytes()[:-torn])

    assert resumed(progress_of(tmp_path), RECORDS) == [pairs(*RECORDS[:2])]
    progress.append(pairs(*RECORDS[2:4]))
    assert len(resumed(progress_of(tmp_path), RECORDS)) == 2


def test_another_destination_is_sent_everything(tmp_path: Path) -> None:
    progress_of(tmp_path).append(pairs(*RECORDS))

    assert resumed(progress_of(tmp_path, "http://x globex"), RECORDS) == []
    assert resumed(progress_of(tmp_path, "http://y acme"), RECORDS) == []
    assert resumed(progress_of(tmp_path), RECORDS) == [pairs(*RECORDS)]


@pytest.mark.parametrize("content", ['{"size": 1, "until": 3}', "", "\\xff"])
def test_a_progress_file_of_another_version_is_not_looked_at(tmp_path: Path, content: str) -> None:
    progress_of(tmp_path).path.write_text(content)

    assert resumed(progress_of(tmp_path), RECORDS) == []
    progress_of(tmp_path).append(pairs(*RECORDS))
    assert resumed(progress_of(tmp_path), RECORDS) == [pairs(*RECORDS)]


@pytest.mark.parametrize("edited", [[{KEY: 1}, {KEY: 3}], [{KEY: 0}, {KEY: 1}, {KEY: 2}], []])
def test_records_that_were_edited_after_they_were_sent_are_refused(
    tmp_path: Path, edited: list[Any]
) -> None:
    progress_of(tmp_path).append(pairs(*RECORDS[:2]))

    with pytest.raises(Unreadable, match=r"r\.progress: .* have changed; delete this file"):
        resumed(progress_of(tmp_path), edited)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


async def interrupted(command: Command, front: Front, folder: Path) -> list[str]:
    """Send two batches of three, the first of which fails; return the arguments."""
    records = [{KEY: number} for number in range(1, 2501)]
    (folder / "r.ndjson").write_bytes(as_ndjson(records))
    statuses = [(number, 400 if number <= 2 else 201) for number in range(1, 1001)]
    front.answers = [outcomes(*statuses), outcomes(*([(1001, 201)] * 1000)), problem(401)]
    arguments = ["r.ndjson", "--url", front.url, "--database", "acme", "--outcomes", "told"]

    ended = await command.run(*arguments, "--concurrency", "1")

    assert ended.status == 3
    return arguments


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_an_edit_of_what_is_sent_ends_the_next_run_and_leaves_all_results(
    command: Command, tmp_path: Path
) -> None:
    async with serving(Front()) as front:
        arguments = await interrupted(command, front, tmp_path)
        lines = (tmp_path / "r.ndjson").read_bytes().splitlines(keepends=True)
        lines[1500] = as_ndjson([{KEY: 7}])
        (tmp_path / "r.ndjson").write_bytes(b"".join(lines))
        before = contents(tmp_path)
        ended = await command.run(*arguments)

    assert ended.status == 2
    assert "r.ndjson.progress: the records that were already sent have changed" in ended.stderr
    assert contents(tmp_path) == before
    assert len(front.batches) == 3


async def test_what_comes_later_in_the_file_may_be_edited(command: Command, tmp_path: Path) -> None:
    async with serving(Front()) as front:
        arguments = await interrupted(command, front, tmp_path)
        with (tmp_path / "r.ndjson").open("ab") as file:
            file.write(as_ndjson([{KEY: 7}]))
        ended = await command.run(*arguments)

    assert "sent      2,501 " in ended.stdout
    assert [len(batch) for batch in front.batches] == [1000, 1000, 500, 501]
    assert len((tmp_path / "told").read_text().splitlines()) == 2502
    assert [number for number, *_ in failures(tmp_path / "r.ndjson.failed.ndjson")] == [1, 2]
    assert not (tmp_path / "r.ndjson.progress").exists()


async def test_a_new_run_keeps_what_the_one_before_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(f'[{{"{KEY}":\n1}}]')
    async with serving(Front()) as front:
        front.answers = [outcomes((1, 400))]
        arguments = ["r.json", "--url", front.url, "--database", "acme", "--outcomes", "told"]
        for _ in range(2):
            await command.run(*arguments)

    assert failures(tmp_path / "r.json.failed.ndjson.old") == [(1, 400, "told", {KEY: 1})]
    assert not (tmp_path / "r.json.failed.ndjson").exists()
    assert (tmp_path / "told.old").read_text().endswith("1,1,400\n")
    assert (tmp_path / "told").read_text().endswith("1,1,200\n")

    before = contents(tmp_path)
    unreachable = ["--url", "http://127.0.0.1:1", "--retries", "0"]
    ended = await command.run(*arguments, *unreachable)

    assert ended.status == 3
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["r.failed.ndjson", "r.outcomes.csv", "r.progress", "r.failed.ndjson.old",
     "stdin.failed.ndjson", "/proc/told", "none/told"],
)  # fmt: skip
async def test_nothing_is_sent_if_what_is_written_could_not_be(
    command: Command, tmp_path: Path, name: str
) -> None:
    for each in ("first", "r"):
        (tmp_path / each).write_bytes(as_ndjson([{KEY: 1}]))
    arguments = ["first", "r"]
    if "/" in name:
        arguments = ["r", "--outcomes", name]
    else:
        (tmp_path / name).mkdir()
        arguments = ["first", "-"] if name.startswith("stdin") else arguments
    before = sorted(tmp_path.rglob("*"))

    async with serving(Front()) as front:
        address = ["--url", front.url, "--database", "acme"]
        ended = await command.run(*arguments, *address, stdin=as_ndjson([{KEY: 1}]))

    assert front.batches == []
    assert ended.status == 3
    assert "sent      0 " in ended.stdout
    assert ended.stderr.startswith(f"Error: cannot write {name}: ")
    assert ended.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


async def test_nothing_is_sent_from_a_folder_that_cannot_be_written(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(as_ndjson([{KEY: 1}]))
    with (tmp_path / "r").open() as file:
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        async with serving(Front()) as front:
            ended = await command.run(path, "--url", front.url, "--database", "acme")

    assert front.batches == []
    assert ended.status == 3
    assert f"Error: cannot write {path}." in ended.stderr


async def test_when_a_disk_fills_up_the_counts_are_true_and_the_next_run_goes_on(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(as_ndjson([{KEY: number} for number in range(1, 5001)]))
    async with serving(Front()) as front:
        arguments = ["r", "--url", front.url, "--database", "acme", "--concurrency", "1"]
        process = await command.start(*arguments)
        # For two batches. A place is kept for the write that is tried before.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        full = await command.end(process)
        sent = len(front.batches)
        ended = await command.run(*arguments)

    assert (full.status, sent) == (3, 3)
    assert "updated   3,000\nsent      3,000 " in full.stdout
    assert full.stderr == "Error: cannot write r.progress: File too large\n"
    assert (ended.status, ended.stderr) == (0, "")
    assert [batch[0][KEY] for batch in front.batches] == [1, 1001, 2001, 2001, 3001, 4001]
    assert os.listdir(tmp_path) == ["r"]


async def test_a_device_for_outcomes_is_written_in_place_and_may_fail(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(as_ndjson([{KEY: number} for number in range(1, 2001)]))
    for name in ("full", "null"):
        (tmp_path / name).symlink_to(f"/dev/{name}")
    async with serving(Front()) as front:
        arguments = ["r", "--url", front.url, "--database", "acme", "--concurrency", "1"]
        for sent in ("1,000", "1,000"):
            full = await command.run(*arguments, "--outcomes", "full")
            assert full.status == 3
            assert f"sent      {sent} " in full.stdout
            assert full.stderr == "Error: cannot write full: No space left on device\n"
        ended = await command.run(*arguments, "--outcomes", "null")

    assert (ended.status, ended.stderr) == (0, "")
    assert "sent      2,000 " in ended.stdout
    assert [batch[0][KEY] for batch in front.batches] == [1, 1001]
    assert sorted(os.listdir(tmp_path)) == ["full", "null", "r"]


@pytest.mark.parametrize(
    ("arguments", "answers", "sent", "in_flight"),
    [
        ([], [problem(401)], 0, 4000),
        ([], [outcomes(*[(0, 503)] * 1000)], 0, 4000),
        (["--outcomes", "/dev/full"], [], 1000, 3000),
        (["--concurrency", "1"], [outcomes(*[(0, 200)] * 1000), problem(401)], 1000, 1000),
    ],
    ids=["refused", "overloaded", "disk", "alone"],
)
async def test_records_that_were_in_flight_when_a_run_ended_are_reported(
    command: Command,
    tmp_path: Path,
    arguments: list[str],
    answers: list[Any],
    sent: int,
    in_flight: int,
) -> None:
    (tmp_path / "r").write_bytes(as_ndjson([{KEY: 0}] * 8000))
    async with serving(Front()) as front:
        front.answers = answers
        address = ["--url", front.url, "--database", "acme", "--retries", "0"]
        ended = await command.run("r", *address, *arguments)

    assert ended.status == 3
    assert re.search(
        rf"\nsent      {sent:,} in .*\nin flight {in_flight:,} \(resent by the next run\)\n",
        ended.stdout,
    )


async def test_what_is_written_is_for_its_owner_alone(command: Command, tmp_path: Path) -> None:
    async with serving(Front()) as front:
        await interrupted(command, front, tmp_path)

    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    assert modes | {"r.ndjson": 0} == {
        "r.ndjson": 0, "r.ndjson.progress": 0, "r.ndjson.failed.ndjson": 0, "told": 0,
    }  # fmt: skip
