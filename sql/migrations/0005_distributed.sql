-- migrate:up

-- What is different where the record table is distributed by Citus. On any other PostgreSQL
-- nothing here is called but the first function, by the planner.

-- Whether the record table is distributed, as it was when the query that calls this was planned;
-- see care_case_clinical_trial_commutes_as_planned(). The catalogue of Citus is not there without
-- Citus, so it is named in a text only.
create function care_case_clinical_trial_is_distributed_as_planned()
returns boolean
language plpgsql
immutable
as $$
declare
    is_distributed boolean := false;
begin
    if to_regclass('pg_catalog.pg_dist_partition') is not null then
        execute
            'select exists (select from pg_catalog.pg_dist_partition'
            ' where logicalrelid = ''care_case_clinical_trial''::regclass)'
        into is_distributed;
    end if;
    return is_distributed;
end
$$;

-- Sets for the rest of the transaction how Citus goes about it, here and at the workers, where
-- the rows are locked and waited for.
--
-- patience       lock_timeout for rows, as text
create function care_case_clinical_trial_set_workers(patience text)
returns void
language plpgsql
as $$
begin
    -- The shards one after another, always in the same order: statements at the same time neither
    -- exclude nor deadlock each other, as they would with all shards at once.
    perform set_config('citus.multi_shard_modify_mode', 'sequential', true);
    -- Connections to the workers stay open (one for each shard; 5 times the speed).
    perform set_config('citus.max_cached_conns_per_worker', '32', true);
    -- Citus hands on the command "set local", and no call of set_config().
    perform set_config('citus.propagate_set_commands', 'local', true);
    execute format('set local lock_timeout = %L', patience);
    -- What is waited for here is no row: a shard that moves.
    perform set_config('lock_timeout', '1s', true);
    -- An insert of a query, be it of no rows, makes Citus commit in two phases. Receipts are here,
    -- so they and their records are committed as one, or neither.
    insert into care_case_clinical_trial (care_case_clinical_trial_key, entry_date, update_date)
    select nothing.key, now(), now()
    from unnest(array[]::integer[]) as nothing (key);
end
$$;

-- Reads what Citus leaves out of a worker's error, which has no other field than its message, and
-- takes the numbers of shards out of the message.
create function care_case_clinical_trial_read_worker_error(
    inout message text,
    out column_name text,
    out constraint_name text
)
language plpgsql
as $$
begin
    message := regexp_replace(
        message,
        '_(' || (select string_agg(shard.shardid::text, '|') from pg_dist_shard as shard) || ')"',
        '"',
        'g'
    );
    column_name := substring(message from '^null value in column "([^"]+)"');
    constraint_name := substring(message from 'constraint "([^"]+)"$');
end
$$;

-- migrate:down

drop function care_case_clinical_trial_read_worker_error;
drop function care_case_clinical_trial_set_workers;
drop function care_case_clinical_trial_is_distributed_as_planned;
