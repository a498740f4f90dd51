-- Whether a stored expression can call a function that is not PostgreSQL's own, or whose result
-- depends on more than its arguments. All nodes that are not known to be harmless count; those that
-- call a function of a type, only if a type in the expression is not PostgreSQL's own.
create or replace function care_case_clinical_trial_calls_unsafe_function(expression text)
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
                'ARRAY', 'ARRAYCOERCEEXPR', 'ARRAYEXPR', 'BOOLEANTEST', 'BOOLEXPR', 'CASE',
                'CASEEXPR', 'CASETESTEXPR', 'CASEWHEN', 'COALESCE', 'COALESCEEXPR', 'COERCEVIAIO',
                'COLLATE', 'COLLATEEXPR', 'CONST', 'DISTINCTEXPR', 'FUNCEXPR', 'MINMAX',
                'MINMAXEXPR', 'NULLIFEXPR', 'NULLTEST', 'OPEXPR', 'RELABELTYPE',
                'SCALARARRAYOPEXPR', 'VAR', 'WHEN'
            ])
        ) or expression ~ '[{](COERCEVIAIO|MINMAX)' and exists (
            select
            from regexp_matches(expression, 'type(?:id)? ([0-9]+)', 'g') as type
            where type[1]::oid >= 16384
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
