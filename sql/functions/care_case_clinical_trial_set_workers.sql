-- Sets for the rest of the transaction how Citus goes about it, here and at the workers, where
-- the rows are locked and waited for.
--
-- patience       lock_timeout for rows, as text
create or replace function care_case_clinical_trial_set_workers(patience text)
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
    execute pg_catalog.format('set local lock_timeout = %L', patience);
    -- What is waited for here is no row: a shard that moves.
    perform set_config('lock_timeout', '1s', true);
    -- An insert of a query, be it of no rows, makes Citus commit in two phases. Receipts are here,
    -- so they and their records are committed as one, or neither.
    insert into care_case_clinical_trial (care_case_clinical_trial_key, entry_date, update_date)
    select nothing.key, now(), now()
    from pg_catalog.unnest(array[]::integer[]) as nothing (key);
end
$$;
