-- Draws keys for records that come without one, and tells the transaction that will
-- insert them, so that after a lost connection its fate can be asked for.
--
-- $1 how many
-- Columns: key, transaction_id
select
    nextval(
        pg_get_serial_sequence('care_case_clinical_trial', 'care_case_clinical_trial_key')
    )::integer as key,
    pg_current_xact_id()::text as transaction_id
from generate_series(1, $1)
