"""An earlier commit's service and this one on the same schema (contract section 2, promise 10).

``OLD_COMMIT`` names the earlier commit; the default is the previous one.
"""

import asyncio
import hashlib
import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import get_args

import asyncpg
import pytest

from service.config import Action
from tests.support.configuration import document
from tests.support.postgres import MakeDatabase
from tests.support.running import RunCommand, StartProcess
from tests.support.service import API_KEY, KEY, ServiceUnderTest
from tests.support.source import ROOT

OLD_COMMIT = os.environ.get("OLD_COMMIT") or "HEAD~1"


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the earlier commit."""
    folder = tmp_path_factory.mktemp("old")
    command = ["git", "archive", OLD_COMMIT]
    try:
        archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("OLD_COMMIT"):
            raise
        pytest.skip(f"no git, or no {OLD_COMMIT} in its history")
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    if not (folder / "sql" / "functions").exists():
        pytest.skip(f"the schema's history was restarted after {OLD_COMMIT}")
    return folder


async def use(one: ServiceUnderTest, other: ServiceUnderTest, key: int) -> None:
    """Send requests of each kind; a service resends and reads what the other one wrote."""
    comment = secrets.token_hex(8)
    batch = [
        {KEY: key},
        {KEY: 0, "comment": comment},
        {KEY: 0, "study_Title": "refused"},
        {KEY: 0, "comment": comment},
        {KEY: key, "update_Date": "2025-01-02T03:04:05Z"},
    ]
    first, again = {"Idempotency-Key": f"1-{comment}"}, {"Idempotency-Key": f"2-{comment}"}

    sent = await one.put(batch, headers=first)
    resent = await other.put(batch, headers=first)
    another_body = await other.put([{KEY: 0}], headers=first)
    together = await asyncio.gather(*(each.put(batch, headers=again) for each in (one, other)))
    older = await other.put(
        [{KEY: key, "update_Date": "2024-01-02T03:04:05Z"}], headers={"Prefer": "resolution=newest"}
    )

    assert sent.statuses == [201, 201, 400, 201, 200]
    assert resent.statuses == [200, 201, 400, 201, 200]
    assert [told[0] for told in sent.outcomes] == [told[0] for told in resent.outcomes]
    assert another_body.status == 422
    assert {answer.status for answer in together} in ({207}, {207, 409})
    assert older.statuses == [409]
    assert [*(await one.comments()).values()].count(comment) == 4

    record = {KEY: 0, "comment": "single"}
    posted = await one.ask("POST", record=record, headers={"Idempotency-Key": f"3-{comment}"})
    reposted = await other.ask("POST", record=record, headers={"Idempotency-Key": f"3-{comment}"})
    path = f"/{posted.envelope['data'][KEY]}"
    replaced = await other.ask("PUT", path, {**record, KEY: int(path[1:]), "comment": "replaced"})
    existing = await other.ask("POST", record={KEY: key})
    read = await one.ask("GET", path)
    listed = await other.ask("GET", f"?sortBy={KEY}:desc&pageSize=1")
    deleted = await one.ask("DELETE", path)
    missing = await other.ask("GET", path)

    answers = (posted, reposted, replaced, existing, read, listed, deleted, missing)
    assert [each.status for each in answers] == [201, 201, 200, 409, 200, 200, 204, 404]
    assert posted.envelope["data"] == reposted.envelope["data"]
    assert read.envelope["data"]["comment"] == "replaced"


async def is_ready(service: ServiceUnderTest) -> bool:
    async with service.session.get(f"{service.url}/readyz") as response:
        return response.status == 200


@pytest.mark.slow
@pytest.mark.parametrize("is_upgraded", [False, True], ids=["new database", "upgraded database"])
async def test_old_and_new_serve_together_whoever_migrates(
    old_tree: Path,
    make_database: MakeDatabase,
    start_process: StartProcess,
    run_command: RunCommand,
    monkeypatch: pytest.MonkeyPatch,
    is_upgraded: bool,
) -> None:
    # One digest: earlier commits accept no list.
    digest = hashlib.sha256(API_KEY.encode()).hexdigest()
    monkeypatch.setenv("SERVICE_AUTH__API_KEYS__LOADER__SHA256", digest)
    dsn, role = make_database(migrated=False), f"role_{secrets.token_hex(4)}"
    owner = await asyncpg.connect(dsn)
    await owner.execute(f"create role {role} login password '{role}'")

    def migrate(checkout: Path) -> None:
        ended = run_command("migrate", config=document({"acme": dsn}), checkout=checkout)
        assert ended.returncode == 0, ended.stderr

    async def use_both(key: int) -> None:
        await asyncio.gather(use(old, new, key), use(new, old, key + 1))

    try:
        migrate(old_tree if is_upgraded else ROOT)
        # Before the upgrade: a migration must grant what it adds.
        await owner.execute(
            f"grant select, insert, update, delete on all tables in schema public to {role};"
            f"grant usage, update on all sequences in schema public to {role};"
            "alter table care_case_clinical_trial add check (study_title <> 'refused')"
        )
        migrate(ROOT)
        old, new = [
            (
                await start_process(
                    {"acme": re.sub(r"://[^/]*@", f"://{role}:{role}@", dsn)},
                    allow=[*get_args(Action)],
                    checkout=checkout,
                )
            )[0]
            for checkout in (old_tree, ROOT)
        ]
        await use_both(1_000_000)
        assert await is_ready(new)
        # On a new database only after its own migrate.
        assert await is_ready(old) or not is_upgraded
        # Rows no longer commute.
        await owner.execute("create unique index on care_case_clinical_trial (case_key)")
        for key, checkout in ((2_000_000, old_tree), (3_000_000, ROOT)):
            migrating = asyncio.create_task(asyncio.to_thread(migrate, checkout))
            while not migrating.done():
                await use_both(key)
                key += 2
            await migrating
            await use_both(key)
            assert await is_ready(old)
            assert await is_ready(new)
    finally:
        await owner.execute(f"drop owned by {role}; drop role {role}")
        await owner.close()
