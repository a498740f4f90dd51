-- Tells whether a record with one of the keys is stored.
--
-- $1 keys
-- Columns: is_stored
select exists(
    select
    from care_case_clinical_trial
    where care_case_clinical_trial_key = any($1::integer[])
) as is_stored
