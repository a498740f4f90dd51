-- Whether the record table is distributed by Citus.
--
-- Columns: is_distributed
select {schema}.care_case_clinical_trial_is_distributed_cached() as is_distributed
