-- Returns the state of an item whose statement wrote no row: e, n or s (see
-- care_case_clinical_trial_apply_items).
--
-- latest         a record whose update_date is later than this stays
create or replace function care_case_clinical_trial_unwritten_state(
    sent care_case_clinical_trial_item,
    latest timestamptz
)
returns text
language plpgsql
as $$
begin
    return case
        when exists (
            select
            from care_case_clinical_trial as stored
            where {comparison}
        ) then 'e'
        when exists (
            select
            from care_case_clinical_trial as stored
            where stored.care_case_clinical_trial_key = sent.care_case_clinical_trial_key
                and stored.update_date > latest
        ) then 'n'
        else 's'
    end;
end
$$;
