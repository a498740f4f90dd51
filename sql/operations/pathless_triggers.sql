-- The functions of the tenant's triggers on the record table that have no search_path of their own: they run
-- with that of the service.
--
-- Columns: function, with its schema
select distinct pg_catalog.format('%I.%I()', namespace.nspname, function.proname) as function
from pg_trigger as trigger
    join pg_proc as function on function.oid = trigger.tgfoid
    join pg_namespace as namespace on namespace.oid = function.pronamespace
where trigger.tgrelid = to_regclass('{schema}.care_case_clinical_trial')
    and not trigger.tgisinternal
    and not exists (
        select
        from pg_catalog.unnest(function.proconfig) as setting
        where starts_with(setting, 'search_path=')
    )
order by function
