-- Whether no record has a key between those of the item at "first" and of the last one; the items are
-- sorted by key. False also where a look would not pay: the keys are far apart, or the table is
-- distributed.
create or replace function care_case_clinical_trial_are_new(
    items care_case_clinical_trial_item[],
    first integer
)
returns boolean
language plpgsql
as $$
declare
    size constant integer := pg_catalog.cardinality(items);
    lowest constant bigint := items[first].care_case_clinical_trial_key;
    highest constant bigint := items[size].care_case_clinical_trial_key;
    stored_key integer;
begin
    if highest - lowest >= 10 * size then
        return false;
    end if;
    -- The statement for other items asks for this privilege, so the one for new items must as well.
    if not has_table_privilege('care_case_clinical_trial', 'update') then
        return false;
    end if;
    -- "Not exists" would drop the order, without which a table that has no statistics may be read from
    -- end to end.
    select stored.care_case_clinical_trial_key
    into stored_key
    from care_case_clinical_trial as stored
    where stored.care_case_clinical_trial_key between lowest and highest
    order by stored.care_case_clinical_trial_key
    limit 1;
    return stored_key is null;
end
$$;
