-- Applies items one at a time, as far as it comes, in one statement that commits by itself.
-- Parameters and fields: see the function in sql/functions/.
--
-- $1 items, $2 sequence, $3 the caller's user name, $4 is_distinct, $5 request, $6 deadline,
-- $7 row_lock_timeout, $8 transient, $9 must_commute, $10 mode
--
-- Columns: applied, a record, since to select from the function would write its row down first
-- (10 of some 75 us for one item).
select
    {schema}.care_case_clinical_trial_apply_items(
        $1, $2, $3, $4, $5, $6, $7,
        -- As text, which costs the service 1 us instead of 24.
        $8::text::text[],
        $9, $10
    ) as applied
