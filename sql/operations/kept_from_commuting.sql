-- What on the record table keeps rows of different keys from commuting, so that they are applied
-- one by one: the conditions of care_case_clinical_trial_commutes(), each by its name.
--
-- Columns: reason; no row where they commute
with relation as (
    select
        relation.oid,
        relation.relkind,
        relation.relispartition,
        relation.relhassubclass,
        relation.relhasrules
    from pg_class as relation
    where relation.oid = to_regclass('care_case_clinical_trial')
)

select 'partitions or inheritance' as reason
from relation
where relation.relkind <> 'r'
    or relation.relispartition
    or relation.relhassubclass
    or exists (select from pg_inherits as parent where parent.inhrelid = relation.oid)
union all
select 'a rule'
from relation
where relation.relhasrules
union all
select 'row-level security'
from relation
where row_security_active(relation.oid)
union all
select 'the trigger ' || trigger.tgname
from relation
    join pg_trigger as trigger on trigger.tgrelid = relation.oid
where not trigger.tgisinternal
union all
select 'the index ' || index.indexrelid::regclass
from relation
    join pg_index as index on index.indrelid = relation.oid
where not index.indisprimary
    and (
        index.indisunique
        or index.indisexclusion
        or care_case_clinical_trial_runs_code(index.indexprs::text)
        or care_case_clinical_trial_runs_code(index.indpred::text)
    )
union all
select 'the constraint ' || rule.conname
from relation
    join pg_constraint as rule on rule.conrelid = relation.oid
where rule.condeferrable
    or rule.confrelid = relation.oid
    or care_case_clinical_trial_runs_code(rule.conbin::text)
union all
select 'the column ' || attribute.attname
from relation
    join pg_attribute as attribute on attribute.attrelid = relation.oid
    left join pg_attrdef as def on def.adrelid = relation.oid and def.adnum = attribute.attnum
    left join pg_type as type on type.oid = attribute.atttypid
where attribute.attnum > 0
    and not attribute.attisdropped
    and (
        attribute.attgenerated <> ''
        or attribute.attidentity <> '' and attribute.attname <> 'care_case_clinical_trial_key'
        or replace(pg_get_expr(def.adbin, def.adrelid), 'now()', '') like '%(%'
        or type.typtype = 'd'
    )
