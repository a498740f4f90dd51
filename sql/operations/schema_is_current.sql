-- Whether the newest migration has been applied.
--
-- Columns: is_current
select to_regproc('care_case_clinical_trial_forget') is not null as is_current
