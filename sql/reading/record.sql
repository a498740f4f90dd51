-- The record of a key; no row where there is none.
--
-- $1  the record key
-- Columns: those in columns.sql
select
{columns}
from {schema}.care_case_clinical_trial as record
where record.care_case_clinical_trial_key = $1
