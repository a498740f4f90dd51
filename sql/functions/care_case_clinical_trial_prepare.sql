-- Locks the record table against DDL and prepares the transaction to write to it.
--
-- row_lock_timeout PostgreSQL's lock_timeout from here on
--
-- Returns whether rows of different keys commute.
-- Raises CT001 if the isolation level is not read committed, and 25006 in a read-only transaction.
create or replace function care_case_clinical_trial_prepare(row_lock_timeout text)
returns boolean
language plpgsql
as $$
declare
    commutes boolean;
    is_distributed boolean;
begin
    -- Few statements, each of which does much: PL/pgSQL prepares every one of them anew in each
    -- transaction.
    if current_setting('transaction_isolation') <> 'read committed'
        or current_setting('transaction_read_only')::boolean
        -- As long as it holds nothing that others want.
        or set_config('lock_timeout', '1s', true) is null
    then
        if current_setting('transaction_read_only')::boolean then
            raise read_only_sql_transaction;
        end if;
        raise exception 'expected the isolation level read committed, got %',
            current_setting('transaction_isolation')
            using errcode = 'CT001';
    end if;
    -- Before any savepoint: if DDL locks the table, that is the database's fault, not an item's. From here
    -- to the end DDL waits, so what the catalog says now stays true.
    lock table care_case_clinical_trial in row exclusive mode;
    select
        care_case_clinical_trial_commutes_cached()
        -- Depends on the role as well, which can change without a new plan.
        and not row_security_active('care_case_clinical_trial')
        and set_config('lock_timeout', row_lock_timeout, true) is not null,
        care_case_clinical_trial_is_distributed_cached()
    into commutes, is_distributed
    from (select count(*) from care_case_clinical_trial where false) as query_of_the_table;
    if is_distributed then
        perform care_case_clinical_trial_set_workers(row_lock_timeout);
    end if;
    if not commutes then
        set constraints all immediate;
    end if;
    return commutes;
end
$$;
