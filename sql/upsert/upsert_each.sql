-- The savepoint path: the same, but exactly the items that fail are left out.
--
-- $1 care_case_clinical_trial_item[], sorted by key, items of one key in order
-- $2 the caller's user name
-- $3 whether existing records are replaced (else they are left out)
-- $4 SQLSTATE classes that end the whole call
-- Columns: item_position (from 1), key, created, error_sqlstate, error_message,
-- error_column; the last row has only the position of the first item not dealt with
select
    outcome.item_position,
    outcome.key,
    outcome.created,
    outcome.error_sqlstate,
    outcome.error_message,
    outcome.error_column
from care_case_clinical_trial_upsert_each($1, $2, $3, $4) as outcome
