-- Whether the record table has partitions.
create or replace function care_case_clinical_trial_is_partitioned()
returns boolean
language plpgsql
as $$
begin
    return exists (
        select
        from pg_class as relation
        where relation.oid = 'care_case_clinical_trial'::regclass
            and relation.relkind = 'p'
    );
end
$$;
