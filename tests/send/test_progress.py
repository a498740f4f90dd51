"""How far a file is sent: what a later run goes on with, and when it must not."""

import os
from pathlib import Path

import pytest

from service.client import Outcome
from service.send.progress import Progress
from service.send.records import Record, Unreadable
from tests.harness.senders import failures

URL = "http://x"


def records(*texts: str) -> list[Record]:
    return [Record(number, text.encode(), number) for number, text in enumerate(texts, 1)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "r").touch()
    return tmp_path / "r"


def progress_of(source: Path | None, folder: Path, database: str = "acme") -> Progress:
    return Progress(source, folder / "failed", folder / "outcomes", URL, database)


def finish(progress: Progress, *finished: Record, status: int = 400) -> None:
    progress.finish([(record, Outcome(record.key, status, "why")) for record in finished])


def test_what_a_killed_run_wrote_beyond_its_progress_is_told_once(
    source: Path, tmp_path: Path
) -> None:
    first, second, third = records("{}", "[]", "1")
    killed = progress_of(source, tmp_path)
    finish(killed, first, second)
    kept = (tmp_path / "r.progress").read_bytes()
    finish(killed, third)
    (tmp_path / "r.progress").write_bytes(kept)

    progress = progress_of(source, tmp_path)
    rest = iter([first, second, third])
    assert progress.resume(rest) == 2
    finish(progress, *rest)

    assert [number for number, *_ in failures(tmp_path / "failed")] == [1, 2, 3]
    assert (tmp_path / "outcomes").read_text().split() == [
        *("record,key,status", "1,1,400", "2,2,400", "3,3,400")
    ]
    assert progress.counts == {400: 3}


def test_a_copy_or_a_newer_time_is_the_same_file(source: Path, tmp_path: Path) -> None:
    first, second = records("{}", "[]")
    finish(progress_of(source, tmp_path), first)
    os.utime(source, (1, 1))

    rest = iter([first, second])

    assert progress_of(source, tmp_path).resume(rest) == 1
    assert list(rest) == [second]


def test_a_file_that_was_edited_where_it_is_sent_already_is_refused(
    source: Path, tmp_path: Path
) -> None:
    finish(progress_of(source, tmp_path), *records("{}", "[]"))
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    with pytest.raises(Unreadable, match=r"first 2 records were sent.*delete .*r\.progress"):
        progress_of(source, tmp_path).resume(iter(records("{}", "[1]")))

    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_another_database_is_sent_everything_and_other_outcomes_are_told_whole(
    source: Path, tmp_path: Path
) -> None:
    finish(progress_of(source, tmp_path), *records("{}"))
    elsewhere = Progress(source, tmp_path / "failed", tmp_path / "other", URL, "acme")

    assert progress_of(source, tmp_path, "globex").resume(iter(records("{}"))) == 0
    assert elsewhere.resume(iter(records("{}"))) == 0
    assert progress_of(source, tmp_path).resume(iter(records("{}"))) == 1


@pytest.mark.parametrize("content", ['{"size": 1, "until": 3}', "", "\\xff"])
def test_a_progress_file_of_another_version_is_refused(
    source: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "r.progress").write_text(content)

    with pytest.raises(Unreadable, match="of another version; delete it"):
        progress_of(source, tmp_path).resume(iter(records("{}")))


def test_a_new_run_keeps_what_the_one_before_told(tmp_path: Path) -> None:
    finish(progress_of(None, tmp_path), *records('{"a":\n1}'))
    finish(progress_of(None, tmp_path), *records("{}"), status=200)

    assert failures(tmp_path / "failed.old") == [(1, 400, "why", {"a": 1})]
    assert not (tmp_path / "failed").exists()
    assert (tmp_path / "outcomes.old").read_text().endswith("1,1,400\n")
    assert (tmp_path / "outcomes").read_text().endswith("1,1,200\n")


def test_what_is_written_is_for_its_owner_alone(source: Path, tmp_path: Path) -> None:
    finish(progress_of(source, tmp_path), *records("{}"))

    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()}
    assert modes | {"r": 0} == {"r": 0, "r.progress": 0, "failed": 0, "outcomes": 0}
