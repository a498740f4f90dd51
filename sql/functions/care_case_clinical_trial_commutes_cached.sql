-- Whether rows of different keys commute, as it was when the query that calls this was planned. A
-- query on the table gets the exact answer at no cost: the answer is folded into the plan, and
-- PostgreSQL makes a new plan after any DDL on the table (a look costs each statement 0.1 ms).
-- "Immutable" is not true, but has this effect.
create or replace function care_case_clinical_trial_commutes_cached()
returns boolean
language plpgsql
immutable
set search_path from current
as $$
begin
    return not exists (
        select
        from care_case_clinical_trial_commute_blockers() as reason
    );
end
$$;
