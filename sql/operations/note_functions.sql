-- Notes that this release of the functions was applied.
--
-- $1 the digest of sql/functions
insert into {schema}.care_case_clinical_trial_functions as applied (digest)
values ($1)
on conflict (digest) do update set applied_at = clock_timestamp()
