-- Whether a stored expression calls a function that is not PostgreSQL's own, or whose result
-- depends on more than its arguments.
create or replace function care_case_clinical_trial_runs_code(expression text)
returns boolean
language plpgsql
set search_path from current
as $$
begin
    return (
        select exists (
            select
            from regexp_matches(expression, '[{]([A-Z_]+)', 'g') as node
            where node[1] <> all (array[
                'ARRAY', 'ARRAYEXPR', 'BOOLEANTEST', 'BOOLEXPR', 'CASE', 'CASEEXPR', 'CASETESTEXPR',
                'CASEWHEN', 'COALESCE', 'COALESCEEXPR', 'COLLATE', 'COLLATEEXPR', 'CONST',
                'DISTINCTEXPR', 'FUNCEXPR', 'NULLIFEXPR', 'NULLTEST', 'OPEXPR', 'RELABELTYPE',
                'SCALARARRAYOPEXPR', 'VAR', 'WHEN'
            ])
        ) or exists (
            select
            from regexp_matches(expression, ':(?:funcid|opfuncid) ([0-9]+)', 'g') as call
                left join pg_proc as function on function.oid = call[1]::oid
            where function.oid >= 16384
                or function.provolatile is distinct from 'i'
        )
    );
end
$$;
