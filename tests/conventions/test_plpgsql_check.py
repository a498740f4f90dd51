"""What plpgsql_check finds in sql/functions: nothing that is not listed here."""

import asyncpg
import pytest

from tests.support.postgres import MakeDatabase

FINDINGS = """
    select function.proname || ': ' || finding.message as finding
    from pg_proc as function
        join pg_language as language on language.oid = function.prolang
        cross join lateral plpgsql_check_function_tb(
            function.oid, extra_warnings => true, security_warnings => true
        ) as finding
    where starts_with(function.proname::text, 'care_case_clinical_trial_')
        and language.lanname = 'plpgsql'
    order by 1
"""

TABLE = "care_case_clinical_trial"
ALLOWED = {
    # The catalog of Citus exists only on Citus.
    f'{TABLE}_is_distributed_cached: relation "pg_catalog.pg_dist_partition" does not exist',
    f'{TABLE}_without_shards: relation "pg_dist_shard" does not exist',
    # A string is assigned: 'infinity' to a timestamp, the name of a sequence to a regclass.
    f"{TABLE}_write_item: target type is different type than source type",
    f"{TABLE}_assign_keys: target type is different type than source type",
}


async def test_plpgsql_check_finds_nothing_else(make_database: MakeDatabase) -> None:
    connection = await asyncpg.connect(make_database())
    try:
        is_available = await connection.fetchval(
            "select exists (select from pg_available_extensions where name = 'plpgsql_check')"
        )
        if not is_available:
            pytest.skip("needs the extension plpgsql_check")
        await connection.execute("create extension plpgsql_check")
        rows = await connection.fetch(FINDINGS)
    finally:
        await connection.close()

    assert {row["finding"] for row in rows} == ALLOWED
