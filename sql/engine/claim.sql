-- Claims a request that came with an Idempotency-Key, before its first item.
--
-- $1 the request, $2 the digest of its bytes
-- Columns: is_running (a statement of the same request is at work; nothing was claimed),
-- is_another (the request came before with other bytes)
select claim.is_running, claim.is_another
from {schema}.care_case_clinical_trial_claim($1, $2) as claim
