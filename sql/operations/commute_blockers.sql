-- What on the record table keeps rows of different keys from commuting, so that they are applied
-- one by one; see the function of this name in sql/functions/.
--
-- Columns: reason; no row where they commute
select kept.reason
from {schema}.care_case_clinical_trial_commute_blockers() as kept (reason)
