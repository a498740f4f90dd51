-- The fewest items that are worth a statement for all of them. On Citus such a statement goes to every
-- shard, which takes as long as some 30 items do. See care_case_clinical_trial_commutes_cached(); an answer
-- that is out of date costs time only.
create or replace function care_case_clinical_trial_min_set_items_cached()
returns integer
language plpgsql
immutable
set search_path from current
as $$
begin
    return case when care_case_clinical_trial_is_distributed_cached() then 33 else 2 end;
end
$$;
