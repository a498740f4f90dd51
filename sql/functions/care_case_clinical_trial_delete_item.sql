-- Deletes the record with this key and returns the state: d, a or s (see
-- care_case_clinical_trial_apply_items).
create or replace function care_case_clinical_trial_delete_item(key integer)
returns text
language plpgsql
as $$
begin
    delete from care_case_clinical_trial as stored
    where stored.care_case_clinical_trial_key = key;
    if found then
        return 'd';
    end if;
    perform
    from care_case_clinical_trial as stored
    where stored.care_case_clinical_trial_key = key;
    return case when found then 's' else 'a' end;
end
$$;
