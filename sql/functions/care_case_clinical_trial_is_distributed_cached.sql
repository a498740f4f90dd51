-- Whether the record table is distributed, as it was when the query that calls this was planned;
-- see care_case_clinical_trial_commutes_cached(). The catalogue of Citus is not there without
-- Citus, so it is named in a text only.
create or replace function care_case_clinical_trial_is_distributed_cached()
returns boolean
language plpgsql
immutable
set search_path from current
as $$
declare
    is_distributed boolean := false;
begin
    if to_regclass('pg_catalog.pg_dist_partition') is not null then
        execute
            'select exists (select from pg_catalog.pg_dist_partition'
            ' where logicalrelid = ''care_case_clinical_trial''::regclass)'
        into is_distributed;
    end if;
    return is_distributed;
end
$$;
