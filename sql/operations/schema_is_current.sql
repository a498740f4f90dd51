-- Whether this release of the functions was ever applied: later ones work with this release, too
-- (contract section 2, promise 10). Fails with 42P01 or 3F000 in a database that was never migrated.
--
-- $1 the digest of sql/functions
-- Columns: is_current
select exists (
    select
    from {schema}.care_case_clinical_trial_functions as applied
    where applied.digest = $1
) as is_current
