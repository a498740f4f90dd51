-- Waits until no other process applies the functions; until the end of the transaction.
select pg_advisory_xact_lock(hashtextextended('care_case_clinical_trial_functions', 0::bigint))
