-- Whether a request was used at or after a moment.
create or replace function care_case_clinical_trial_is_used(request_id uuid, since timestamptz)
returns boolean
language plpgsql
set search_path from current
as $$
begin
    return (
        select exists (
            select
            from care_case_clinical_trial_receipt as receipt
            where receipt.request = request_id
                and receipt.created_at >= since
        ) or exists (
            select
            from care_case_clinical_trial_request as known
            where known.request = request_id
                and known.used_at >= since
        )
    );
end
$$;
