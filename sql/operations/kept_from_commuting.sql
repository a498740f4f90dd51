-- What on the record table keeps rows of different keys from commuting, so that they are applied
-- one by one; see the function in sql/migrations/0003_apply.sql.
--
-- Columns: reason; no row where they commute
select kept.reason
from care_case_clinical_trial_kept_from_commuting() as kept (reason)
