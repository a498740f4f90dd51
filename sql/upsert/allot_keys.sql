-- Draws keys for records that come without one.
--
-- Run outside a transaction, it commits by itself, so that a key that was returned is never
-- drawn again, not even after a crash (which takes back what was not yet on disk).
--
-- $1 how many
-- Columns: key
select
    nextval(
        pg_get_serial_sequence('care_case_clinical_trial', 'care_case_clinical_trial_key')
    )::integer as key
from generate_series(1, $1)
