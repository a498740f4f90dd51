-- migrate:up

-- Creates or replaces records, all of them or none.
--
-- items        keys distinct and none of them 0; sorted by key, so that concurrent
--              batches lock rows in one global order and cannot deadlock (sorting here
--              instead of in the caller measured 0.8 times the speed)
-- caller_user  the user name where an item names none
-- replacing    false: a record whose key is taken is left out, never overwritten
--
-- Returns the keys of the records that were created, and of those that were
-- replaced; null for none (two arrays cost the client less than a row for each record).
-- xmax is 0 on a row that this statement inserted; one that went through "do update" was
-- locked first and carries the locker there.
create function care_case_clinical_trial_upsert(
    items care_case_clinical_trial_item[],
    caller_user varchar,
    replacing boolean,
    out created integer[],
    out updated integer[]
)
language plpgsql
as $$
declare
    -- asyncpg sends the first and the last moment that a Python datetime can hold (and
    -- that .NET writes for "no date") as infinities; they are what they were again here.
    first_moment constant timestamptz := '0001-01-01 00:00:00+00';
    last_moment constant timestamptz := '9999-12-31 23:59:59.999999+00';
begin
    with written as (
        insert into care_case_clinical_trial as stored (
            care_case_clinical_trial_key,
            care_case_clinical_trial_arm_id,
            care_case_clinical_trial_reason_id,
            care_case_clinical_trial_study_phase_id,
            case_key,
            comment,
            disease,
            entry_date,
            entry_user,
            inclusion_exclusion,
            location,
            protocol_number,
            study_drug,
            study_length,
            study_title,
            update_date,
            update_user,
            website
        )
        select
            item.care_case_clinical_trial_key,
            item.care_case_clinical_trial_arm_id,
            item.care_case_clinical_trial_reason_id,
            item.care_case_clinical_trial_study_phase_id,
            item.case_key,
            item.comment,
            item.disease,
            greatest(least(coalesce(item.entry_date, now()), last_moment), first_moment),
            coalesce(item.entry_user, caller_user),
            item.inclusion_exclusion,
            item.location,
            item.protocol_number,
            item.study_drug,
            item.study_length,
            item.study_title,
            greatest(least(coalesce(item.update_date, now()), last_moment), first_moment),
            coalesce(item.update_user, caller_user),
            item.website
        from unnest(items) as item
        on conflict (care_case_clinical_trial_key) do update set
            care_case_clinical_trial_arm_id = excluded.care_case_clinical_trial_arm_id,
            care_case_clinical_trial_reason_id = excluded.care_case_clinical_trial_reason_id,
            care_case_clinical_trial_study_phase_id = excluded.care_case_clinical_trial_study_phase_id,
            case_key = excluded.case_key,
            comment = excluded.comment,
            disease = excluded.disease,
            inclusion_exclusion = excluded.inclusion_exclusion,
            location = excluded.location,
            protocol_number = excluded.protocol_number,
            study_drug = excluded.study_drug,
            study_length = excluded.study_length,
            study_title = excluded.study_title,
            update_date = excluded.update_date,
            update_user = excluded.update_user,
            website = excluded.website
        where replacing
        returning
            stored.care_case_clinical_trial_key as key,
            stored.xmax = 0 as is_new
    )
    select
        array_agg(written.key) filter (where written.is_new),
        array_agg(written.key) filter (where not written.is_new)
    into created, updated
    from written;
end
$$;

-- Does the same in savepoints, so that an item that fails spoils no other: 32 items share a
-- savepoint; where that fails, 8 do; where that fails, each has its own. After an item that
-- failed, the next is tried alone: bad items come in runs.
--
-- Stops after 64 savepoints that hold rows (past PGPROC's 64 cached subtransactions the
-- snapshots of every session slow down); the caller sends the rest again. Constraints are
-- checked inside the savepoints, deferred ones too.
--
-- items            sorted by key, items of one key in the order they take effect
-- not_of_an_item   SQLSTATE classes of errors that end the whole call (the database is
--                  ill, not an item)
--
-- Returns a row for each item dealt with, by its position in items (from 1): key and
-- created, or the error. An item that was neither stored nor refused (a trigger
-- suppressed it) has no row, so the first item not dealt with is told in a last row, which
-- has only the position.
create function care_case_clinical_trial_upsert_each(
    items care_case_clinical_trial_item[],
    caller_user varchar,
    replacing boolean,
    not_of_an_item text[]
)
returns table (
    item_position integer,
    key integer,
    created boolean,
    error_sqlstate text,
    error_message text,
    error_column text
)
language plpgsql
as $$
declare
    keys constant integer[] := array(
        select item.care_case_clinical_trial_key from unnest(items) as item
    );
    first_position integer := 1;
    last_position integer;
    size integer := 32;
    savepoints integer := 0;
    written record;
begin
    set constraints all immediate;
    while first_position <= cardinality(items) and savepoints < 64 loop
        last_position := least(first_position + size - 1, cardinality(items));
        begin
            -- An expression, not a query, and no slice for one item: both cost as much as
            -- the insert of one record.
            if size = 1 then
                written := care_case_clinical_trial_upsert(
                    array[items[first_position]], caller_user, replacing
                );
                if coalesce(written.created, written.updated) = array[keys[first_position]] then
                    item_position := first_position;
                    key := keys[first_position];
                    created := written.created is not null;
                    error_sqlstate := null;
                    error_message := null;
                    error_column := null;
                    return next;
                end if;
            else
                written := care_case_clinical_trial_upsert(
                    items[first_position:last_position], caller_user, replacing
                );
                return query
                select
                    first_position - 1
                        + array_position(keys[first_position:last_position], stored.key),
                    stored.key,
                    stored.is_new,
                    null::text,
                    null::text,
                    null::text
                from (
                    select unnest(written.created) as key, true as is_new
                    union all
                    select unnest(written.updated), false
                ) as stored;
            end if;
            savepoints := savepoints + 1;
            first_position := last_position + 1;
            size := case
                when (first_position - 1) % 32 = 0 then 32
                when (first_position - 1) % 8 = 0 then 8
                else 1
            end;
        exception when others or assert_failure then
            if left(sqlstate, 2) = any (not_of_an_item) then
                raise;
            end if;
            if size > 1 then
                size := case size when 32 then 8 else 1 end;
            else
                item_position := first_position;
                key := keys[first_position];
                created := null;
                error_sqlstate := sqlstate;
                get stacked diagnostics
                    error_message = message_text,
                    error_column = column_name;
                return next;
                first_position := first_position + 1;
            end if;
        end;
    end loop;
    item_position := first_position;
    key := null;
    created := null;
    error_sqlstate := null;
    error_message := null;
    error_column := null;
    return next;
end
$$;

-- migrate:down

drop function care_case_clinical_trial_upsert_each;
drop function care_case_clinical_trial_upsert;
