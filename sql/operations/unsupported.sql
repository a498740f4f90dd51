-- What on the record table cannot go with "on conflict", so that every item would fail.
--
-- Columns: reason, in words; no row where all is well
select 'the table care_case_clinical_trial has a rule, which cannot go with "on conflict"' as reason
from pg_class as relation
where relation.oid = to_regclass('{schema}.care_case_clinical_trial')
    and relation.relhasrules
    and relation.relkind <> 'v'
union all
select 'the primary key of care_case_clinical_trial is deferrable, which cannot go with "on conflict"'
from pg_constraint as rule
where rule.conrelid = to_regclass('{schema}.care_case_clinical_trial')
    and rule.contype = 'p'
    and rule.condeferrable
