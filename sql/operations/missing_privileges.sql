-- The rights that the serving role needs, and which of them it lacks: the one list of grants.
--
-- Columns: missing, as a grant names them; no row where nothing is lacking
with needed (position, kind, name, privileges) as (
    values
        (1, 'table', 'care_case_clinical_trial', array['select', 'insert', 'update']),
        (
            2, 'table', 'care_case_clinical_trial_receipt',
            array['select', 'insert', 'delete']
        ),
        (
            3, 'sequence', 'care_case_clinical_trial_care_case_clinical_trial_key_seq',
            array['usage', 'update']
        )
),

home (prefix) as (
    select case '{schema}' when '"public"' then '' else to_regnamespace('{schema}')::text || '.' end
)

select
    string_agg(privilege, ', ' order by place) || ' on '
    || case needed.kind when 'table' then '' else needed.kind || ' ' end
    || home.prefix || needed.name as missing
from needed
    cross join home
    cross join pg_catalog.unnest(needed.privileges) with ordinality as each (privilege, place)
where not case needed.kind
    when 'table' then has_table_privilege(to_regclass('{schema}.' || needed.name), privilege)
    else has_sequence_privilege(to_regclass('{schema}.' || needed.name), privilege)
end
group by needed.position, needed.kind, needed.name, home.prefix
union all
-- Everybody has this, unless somebody took it away.
select 'execute on all functions in schema ' || to_regnamespace('{schema}')::text
where exists (
    select
    from pg_proc as function
    where function.pronamespace = to_regnamespace('{schema}')::oid
        and starts_with(function.proname::text, 'care_case_clinical_trial_'::text)
        and not has_function_privilege(function.oid, 'execute')
)
order by missing
