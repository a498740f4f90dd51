-- Applies items one after another, as far as it comes, in one statement that commits by itself.
-- Parameters and fields: see the function in sql/functions/.
--
-- $1 items, $2 the caller's user name, $3 sequence, $4 is_distinct, $5 request_id,
-- $6 request_digest, $7 item_ranges, $8 reserved, $9 reserved_from, $10 reserved_to, $11 deadline,
-- $12 patience, $13 passing, $14 must_commute, $15 mode
--
-- Columns: applied, a record, since to select from the function would write its row down first
-- (10 of some 75 us for one item).
select
    {schema}.care_case_clinical_trial_apply(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
        -- As text, which costs the service 1 us instead of 24.
        $13::text::text[],
        $14, $15
    ) as applied
