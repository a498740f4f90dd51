-- Whether a unique violation (23505) is one of the record table's primary key, or of a partition's. A
-- worker of Citus names the table and the constraint only in the message, with the number of a shard.
create or replace function care_case_clinical_trial_is_key_taken(
    message text,
    table_name text,
    constraint_name text
)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select
        from pg_constraint as rule
            join pg_class as relation on relation.oid = rule.conrelid
        where (
                relation.oid = 'care_case_clinical_trial'::regclass
                or relation.oid in (
                    select partition.relid
                    from pg_partition_tree('care_case_clinical_trial') as partition
                )
            )
            and rule.contype = 'p'
            and (
                relation.relname = table_name
                and rule.conname = constraint_name
                or to_regclass('pg_catalog.pg_dist_shard') is not null
                and substring(message from 'constraint "([^"]+)_[0-9]+"$') = rule.conname
            )
    );
end
$$;
