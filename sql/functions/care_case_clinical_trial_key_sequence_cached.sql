-- The sequence that assigns record keys, as it was when the query that calls this was planned; see
-- care_case_clinical_trial_commutes_cached().
create or replace function care_case_clinical_trial_key_sequence_cached()
returns regclass
language plpgsql
immutable
set search_path from current
as $$
begin
    return pg_get_serial_sequence('care_case_clinical_trial', 'care_case_clinical_trial_key')::regclass;
end
$$;
