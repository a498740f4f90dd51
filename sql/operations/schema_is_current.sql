-- Whether the newest migration has been applied.
--
-- Columns: is_current
select to_regprocedure(
    'care_case_clinical_trial_upsert_each('
    'care_case_clinical_trial_item[], character varying, boolean, text[])'
) is not null as is_current
