-- Writes an item with an explicit key, as one "insert … on conflict do update", or deletes its record.
--
-- caller_user    the user name where the item has none
-- mode           upsert, newest, replace or delete (see care_case_clinical_trial_apply_items)
-- is_partitioned whether the record table has partitions: then PostgreSQL does not return xmax
--
-- Returns the item's state (see care_case_clinical_trial_apply_items).
create or replace function care_case_clinical_trial_write_item(
    sent care_case_clinical_trial_item,
    caller_user varchar,
    mode text,
    is_partitioned boolean
)
returns text
language plpgsql
as $$
declare
    -- A stored record whose update_date is later stays.
    latest timestamptz := 'infinity';
    is_newer boolean;
    key integer;
    is_new boolean;
    was_stored boolean;
begin
    if mode = 'newest' then
        -- As it was sent, whatever a trigger makes of it.
        latest := greatest(
            least(coalesce(sent.update_date, now()), timestamptz '9999-12-31 23:59:59.999999+00'),
            timestamptz '0001-01-01 00:00:00+00'
        );
        -- Before the statement, so that its triggers do not run in vain.
        select stored.update_date > latest
        into is_newer
        from care_case_clinical_trial as stored
        where stored.care_case_clinical_trial_key = sent.care_case_clinical_trial_key
        for no key update;
        if is_newer then
            return 'n';
        end if;
        -- PostgreSQL rejects an update of what row-level security hides, but only after the condition
        -- below, so that must be true.
        if row_security_active('care_case_clinical_trial') then
            latest := 'infinity';
        end if;
    elsif mode = 'replace' then
        perform
        from care_case_clinical_trial as stored
        where stored.care_case_clinical_trial_key = sent.care_case_clinical_trial_key
        for no key update;
        if not found then
            return 'a';
        end if;
    elsif mode = 'delete' then
        return care_case_clinical_trial_delete_item(sent.care_case_clinical_trial_key);
    end if;
    if is_partitioned then
        was_stored := exists (
            select
            from care_case_clinical_trial as stored
            where stored.care_case_clinical_trial_key = sent.care_case_clinical_trial_key
        );
    end if;
    insert into care_case_clinical_trial as stored (care_case_clinical_trial_key, {names})
    values (sent.care_case_clinical_trial_key, {values})
    on conflict (care_case_clinical_trial_key) do update set {updates}
    -- One that was created since the look can be newer.
    where stored.update_date <= latest
    returning
        stored.care_case_clinical_trial_key,
        case when not is_partitioned then stored.xmax = 0 end
    into key, is_new;
    if key is null then
        return care_case_clinical_trial_unwritten_state(sent, latest);
    end if;
    if is_partitioned then
        is_new := not was_stored and care_case_clinical_trial_is_new_in_partition(key);
    end if;
    return case when is_new then 'c' else 'u' end;
end
$$;
