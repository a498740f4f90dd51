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
        ),
        -- Everybody has this, unless somebody took it away.
        (4, 'function', 'care_case_clinical_trial_apply', array['execute'])
)

select
    string_agg(privilege, ', ' order by place) || ' on '
    || case needed.kind when 'table' then '' else needed.kind || ' ' end || needed.name as missing
from needed
    cross join unnest(needed.privileges) with ordinality as each (privilege, place)
where not case needed.kind
    when 'table' then has_table_privilege(to_regclass('{schema}.' || needed.name), privilege)
    when 'sequence' then has_sequence_privilege(to_regclass('{schema}.' || needed.name), privilege)
    else has_function_privilege(to_regproc('{schema}.' || needed.name), privilege)
end
group by needed.position, needed.kind, needed.name
order by needed.position
