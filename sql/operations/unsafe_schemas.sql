-- The schemas of a search path in which somebody could plant a function, type or table that PostgreSQL
-- would then prefer to the right one (the promise "Nobody else's code").
--
-- Runs before anything else in a session whose own search path is not known yet: every call matches
-- a function of pg_catalog exactly, so that none of these objects is used here.
--
-- $1 the search path, the schema of the record table first
-- $2 whether to look at the path of the functions as well, which is another one until migrate runs
-- Columns: schema, grantee (who can create objects in it, besides superusers and the owners of the
-- schema and of the record table; null: the schema does not exist)
with path (schema) as (
    select given.schema
    from pg_catalog.unnest($1::text[]) as given (schema)
    union
    select btrim(each.schema, '"'::text)
    from pg_catalog.pg_proc as function
        join pg_catalog.pg_namespace as home on home.oid = function.pronamespace
        cross join pg_catalog.unnest(function.proconfig) as setting (words)
        cross join pg_catalog.unnest(string_to_array(substr(setting.words, 13), ', '::text)) as each (schema)
    where $2::boolean
        and home.nspname = $1[1]
        and function.proname = 'care_case_clinical_trial_apply_items'::name
        and starts_with(setting.words, 'search_path='::text)
        and each.schema <> '"pg_temp"'::text
)

select
    quote_ident(path.schema) as schema,
    case
        when privilege.grantee = 0::oid then 'public'::text
        else quote_ident(role.rolname::text)
    end as grantee
from path
    left join pg_catalog.pg_namespace as namespace on namespace.nspname = path.schema
    left join lateral aclexplode(namespace.nspacl) as privilege
        on privilege.privilege_type = 'CREATE'::text
            and privilege.grantee <> namespace.nspowner
            and privilege.grantee <> coalesce(
                (
                    select relation.relowner
                    from pg_catalog.pg_class as relation
                        join pg_catalog.pg_namespace as home on home.oid = relation.relnamespace
                    where home.nspname = $1[1]
                        and relation.relname = 'care_case_clinical_trial'::name
                ),
                -- Who migrates for the first time will be its owner.
                (
                    select own.oid
                    from pg_catalog.pg_roles as own
                    where own.rolname = current_user
                )
            )
    left join pg_catalog.pg_roles as role on role.oid = privilege.grantee
where namespace.oid is null
    or (
        privilege.grantee is not null
        and role.rolsuper is not true
    )
order by path.schema, privilege.grantee
