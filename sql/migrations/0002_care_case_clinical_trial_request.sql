-- migrate:up

-- The request of a statement whose items need a receipt, see care_case_clinical_trial_receipt.
--
-- id              identifies API key name, database and Idempotency-Key (or activityID)
-- digest          of the body
-- places          positions of these items in the request, less than 2,048 apart
-- reserved        keys that are not to be assigned: those that items of the batch use explicitly, all that
--                 lie between reserved_from and reserved_to; null: none
-- reserved_from, reserved_to  an assigned key outside of them could be reserved; null: there is no such key
create type care_case_clinical_trial_request as (
    id uuid,
    digest uuid,
    places int4multirange,
    reserved integer[],
    reserved_from integer,
    reserved_to integer
);

-- migrate:down

drop type care_case_clinical_trial_request;
