-- Whether the row that this transaction just wrote to a partitioned table, and which was not stored before
-- its statement, is new. It is not if another transaction created it while the statement ran.
create or replace function care_case_clinical_trial_is_new_in_partition(key integer)
returns boolean
language plpgsql
as $$
begin
    return exists (
        select
        from care_case_clinical_trial as stored
        where stored.care_case_clinical_trial_key = key
            and stored.xmax = 0
    ) or exists (
        -- A foreign key to the table itself locks the row that it refers to, maybe the new one.
        select
        from pg_constraint as rule
        where rule.conrelid = 'care_case_clinical_trial'::regclass
            and rule.confrelid = rule.conrelid
    );
end
$$;
