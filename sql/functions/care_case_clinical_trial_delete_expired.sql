-- Deletes the receipts of requests that created their last record before "expiry", of at most "most"
-- requests per call. Each request is deleted as a whole and under its lock, never during a statement
-- that uses its receipts.
--
-- Returns the number of requests.
create or replace function care_case_clinical_trial_delete_expired(expiry timestamptz, most integer)
returns integer
language plpgsql
set search_path from current
as $$
declare
    expired uuid;
    deleted integer := 0;
begin
    -- One process at a time.
    if not pg_try_advisory_xact_lock(hashtextextended('care_case_clinical_trial_delete_expired', 0::bigint)) then
        return 0;
    end if;
    for expired in
        select old.request
        from care_case_clinical_trial_receipt as old
        where old.created_at < expiry
            and not exists (
                select
                from care_case_clinical_trial_receipt as newer
                where newer.request = old.request
                    and newer.created_at >= expiry
            )
        group by old.request
        order by min(old.created_at)
        limit most
    loop
        continue when not pg_try_advisory_xact_lock(hashtextextended(expired::text, 0::bigint));
        -- The lock was free: a statement that wrote a receipt since then has ended, and is seen here.
        delete from care_case_clinical_trial_receipt as receipt
        where receipt.request = expired
            and not exists (
                select
                from care_case_clinical_trial_receipt as newer
                where newer.request = expired
                    and newer.created_at >= expiry
            );
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;
