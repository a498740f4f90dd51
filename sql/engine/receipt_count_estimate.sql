-- How many receipts there are, by the planner's estimate: to count them would read them all.
--
-- Columns: receipts
select greatest(relation.reltuples, 0)::bigint as receipts
from pg_class as relation
where relation.oid = to_regclass('{schema}.care_case_clinical_trial_receipt')
