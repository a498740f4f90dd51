-- Which of some requests created records with another body (contract section 1, "Retries").
--
-- $1 the requests, $2 the digest of the body of each
-- Columns: place (in the arrays, from 1)
select asked.place
from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (request, digest, place)
where (
    -- All receipts of a request have the same digest.
    select receipt.digest <> asked.digest
    from {schema}.care_case_clinical_trial_receipt as receipt
    where receipt.request = asked.request
    limit 1
)
