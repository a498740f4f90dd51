-- What on the record table keeps rows of different keys from commuting (contract section 1), by
-- name; no row where they may be written in any order and all at once, and nobody can tell that
-- from one by one. That is a table as the migrations make it, to which the tenant added nothing
-- that looks at other rows, counts, or runs code. Exact while the caller holds a lock on the table
-- that DDL waits for.
create or replace function care_case_clinical_trial_commute_blockers()
returns setof text
language plpgsql
set search_path from current
as $$
begin
    return query
    with relation as (
        select
            relation.oid,
            relation.relkind,
            relation.relispartition,
            relation.relhassubclass,
            relation.relhasrules
        from pg_class as relation
        where relation.oid = 'care_case_clinical_trial'::regclass
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
    -- Foreign keys have triggers, too, which are PostgreSQL's own.
    select 'the trigger ' || trigger.tgname::text
    from relation
        join pg_trigger as trigger on trigger.tgrelid = relation.oid
    where not trigger.tgisinternal
    union all
    -- One that is not valid (its concurrent build goes on, or failed) refuses rows, too.
    select 'the index ' || index.indexrelid::regclass::text
    from relation
        join pg_index as index on index.indrelid = relation.oid
    where not index.indisprimary
        and (
            index.indisunique
            or index.indisexclusion
            or care_case_clinical_trial_calls_unsafe_function(index.indexprs::text)
            or care_case_clinical_trial_calls_unsafe_function(index.indpred::text)
        )
    union all
    -- A foreign key to another table is fine, a check as long as it calls only functions of
    -- PostgreSQL's own that depend on nothing but their arguments.
    select 'the constraint ' || rule.conname::text
    from relation
        join pg_constraint as rule on rule.conrelid = relation.oid
    where rule.condeferrable
        or rule.confrelid = relation.oid
        or care_case_clinical_trial_calls_unsafe_function(rule.conbin::text)
    union all
    -- Its default: a constant or the transaction's time is fine.
    select 'the column ' || attribute.attname::text
    from relation
        join pg_attribute as attribute on attribute.attrelid = relation.oid
        left join pg_attrdef as def on def.adrelid = relation.oid and def.adnum = attribute.attnum
        left join pg_type as type on type.oid = attribute.atttypid
    where attribute.attnum > 0
        and not attribute.attisdropped
        and (
            attribute.attgenerated <> ''
            or attribute.attidentity <> '' and attribute.attname <> 'care_case_clinical_trial_key'
            or (
                pg_get_expr(def.adbin, def.adrelid) <> 'now()'
                and care_case_clinical_trial_calls_unsafe_function(def.adbin::text)
            )
            or type.typtype = 'd'
            -- Storing a value in a type of the tenant's can call a cast of the tenant's.
            or type.oid >= 16384 and exists (
                select
                from pg_attribute as sent
                where sent.attrelid = 'care_case_clinical_trial_item'::regclass::oid
                    and sent.attname = attribute.attname
            )
        );
end
$$;
