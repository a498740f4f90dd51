-- Which functions are in place.
--
-- $1 the digest of sql/functions
-- Columns: is_newest (this release was applied last), search_path (that the functions run with)
select
    coalesce(
        (
            select applied.digest = $1
            from {schema}.care_case_clinical_trial_functions as applied
            order by applied.applied_at desc
            limit 1
        ),
        false
    ) as is_newest,
    (
        select substring(setting from '^search_path=(.*)')
        from pg_proc as function
            cross join pg_catalog.unnest(function.proconfig) as setting
        where function.oid = to_regproc('{schema}.care_case_clinical_trial_apply_items')
            and starts_with(setting, 'search_path=')
    ) as search_path
