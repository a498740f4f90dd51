-- Forgets a few of the requests that were used last so many days ago, and a day more.
--
-- $1 days, $2 how many requests at most
-- Columns: forgotten, fewer than $2 when there are no more
select {schema}.care_case_clinical_trial_delete_expired(
    clock_timestamp() - make_interval(days => $1::integer + 1), $2
) as forgotten
