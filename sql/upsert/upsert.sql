-- The fast path: creates or replaces a chunk of records, all or none, in one round trip
-- that commits by itself.
--
-- $1 care_case_clinical_trial_item[], sorted by key, keys distinct, none 0
-- $2 the caller's user name
-- $3 whether existing records are replaced (else they are left out)
-- Columns: created, updated (arrays of keys, null for none); one row
select written.created, written.updated
from care_case_clinical_trial_upsert($1, $2, $3) as written
