-- Claims a request that came with an Idempotency-Key, before its first item.
--
-- Returns whether a statement of the same request is running just now (then nothing is claimed),
-- and whether the request came before with other bytes.
create or replace function care_case_clinical_trial_claim(
    request_id uuid,
    request_digest uuid,
    out is_running boolean,
    out is_another boolean
)
language plpgsql
set search_path from current
as $$
begin
    is_another := false;
    is_running := not pg_try_advisory_xact_lock(hashtextextended(request_id::text, 0::bigint));
    if is_running then
        return;
    end if;
    is_another := exists (
        select
        from care_case_clinical_trial_receipt as receipt
        where receipt.request = request_id
            and receipt.digest <> request_digest
    );
    -- A request that is rejected leaves nothing behind.
    if is_another then
        return;
    end if;
    insert into care_case_clinical_trial_request as known (request, digest)
    values (request_id, request_digest)
    on conflict (request) do update set used_at = clock_timestamp()
    returning known.digest <> request_digest
    into is_another;
end
$$;
