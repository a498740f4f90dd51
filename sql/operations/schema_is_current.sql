-- Whether the newest migration has been applied.
--
-- Columns: is_current
select to_regproc('care_case_clinical_trial_is_distributed_as_planned') is not null as is_current
