-- The schemas of a search path in which somebody could plant a function, type or table that PostgreSQL
-- would then prefer to the right one (the promise "Nobody else's code").
--
-- Runs before anything else in a session whose own search path is not known yet: every call matches
-- a function of pg_catalog exactly, so that none of these objects is used here.
--
-- $1 the search path, the schema of the record table first
-- Columns: schema, grantee (who can create objects in it, besides superusers and the owners of the
-- schema and of the record table; null: the schema does not exist)
select
    quote_ident(path.schema) as schema,
    case
        when privilege.grantee = 0::oid then 'public'::text
        else quote_ident(role.rolname::text)
    end as grantee
from pg_catalog.unnest($1::text[]) with ordinality as path (schema, place)
    left join pg_catalog.pg_namespace as namespace on namespace.nspname = path.schema
    left join lateral aclexplode(namespace.nspacl) as privilege
        on privilege.privilege_type = 'CREATE'::text
            and privilege.grantee <> namespace.nspowner
            and privilege.grantee is distinct from (
                select relation.relowner
                from pg_catalog.pg_class as relation
                    join pg_catalog.pg_namespace as home on home.oid = relation.relnamespace
                where home.nspname = $1[1]
                    and relation.relname = 'care_case_clinical_trial'::name
            )
    left join pg_catalog.pg_roles as role on role.oid = privilege.grantee
where namespace.oid is null
    or (
        privilege.grantee is not null
        and role.rolsuper is not true
    )
order by path.place, privilege.grantee
