-- Moves the key sequence to the end of the run of taken keys that it has met, so that
-- explicit keys that ran ahead are passed in one step instead of one by one. Never back.
--
-- $1 a key that was drawn and found taken
-- Columns: the sequence's new value, no row when it stands further already
select setval(sequence, last_taken.key)
from
    pg_get_serial_sequence(
        'care_case_clinical_trial', 'care_case_clinical_trial_key'
    ) as sequence,
    lateral (
        select stored.care_case_clinical_trial_key as key
        from care_case_clinical_trial as stored
        where stored.care_case_clinical_trial_key >= $1
            and not exists (
                select
                from care_case_clinical_trial as following
                where following.care_case_clinical_trial_key
                    = stored.care_case_clinical_trial_key::bigint + 1
            )
        order by stored.care_case_clinical_trial_key
        limit 1
    ) as last_taken
where last_taken.key > pg_sequence_last_value(sequence::regclass)
