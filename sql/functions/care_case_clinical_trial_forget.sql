-- Forgets requests that were used last before "expiry", at most "most" of them at a call; each
-- as a whole and under its lock, so that none is forgotten under a replay.
--
-- Returns how many it forgot.
create or replace function care_case_clinical_trial_forget(expiry timestamptz, most integer)
returns integer
language plpgsql
set search_path from current
as $$
declare
    expired uuid;
    forgotten integer := 0;
begin
    -- One process at a time.
    if not pg_try_advisory_xact_lock(hashtextextended('care_case_clinical_trial_forget', 0::bigint)) then
        return 0;
    end if;
    for expired in
        select old.request
        from (
            select receipt.request, receipt.created_at as used_at
            from care_case_clinical_trial_receipt as receipt
            where receipt.created_at < expiry
            union all
            select known.request, known.used_at
            from care_case_clinical_trial_request as known
            where known.used_at < expiry
        ) as old
        where not care_case_clinical_trial_is_used(old.request, expiry)
        group by old.request
        order by min(old.used_at)
        limit most
    loop
        continue when not pg_try_advisory_xact_lock(hashtextextended(expired::text, 0::bigint));
        -- Again, now that nobody else can use it.
        continue when care_case_clinical_trial_is_used(expired, expiry);
        delete from care_case_clinical_trial_receipt as receipt
        where receipt.request = expired;
        delete from care_case_clinical_trial_request as known
        where known.request = expired;
        forgotten := forgotten + 1;
    end loop;
    return forgotten;
end
$$;
