-- Applies items one at a time, each in a savepoint of its own (contract section 1, "Equivalence to one
-- item at a time"), and returns how far it came; the caller sends the rest again. As long as the order
-- is not observable (the rows commute), all are tried by one statement first; otherwise, and after a failure,
-- up to 32 items share a savepoint until one of them fails.
--
-- items            sorted by key if "sequence" gives their order; those with key 0 come first. (Sorted, they
--                  lock rows in one order; sorting here measured 0.8 times the speed.)
-- sequence         the order of the items, as positions in "items"; null: as they stand
-- caller_user      the user name where an item has none
-- is_distinct      whether no key except 0 comes twice
-- request          for the items whose creation needs a receipt: those with key 0, in the mode create all;
--                  null if there are none (see sql/migrations)
-- deadline         seconds since 1970 by this server's clock, after which nothing is committed
-- row_lock_timeout PostgreSQL's lock_timeout for rows: short for a statement that holds others' rows
-- transient        SQLSTATEs, and classes of them, that are not caused by an item
-- must_commute     true: other items of the same batch may be running, so nothing is written unless the
--                  rows commute
-- mode             what happens to a record that exists, and to an item without one:
--   upsert           it is replaced; it is created
--   newest           it is replaced unless its update_date is later than the item's; it is created
--   create           it stays; it is created, with a receipt, so that a second attempt recognizes its own record
--   replace          it is replaced; none is created
--   delete           it is deleted; of the item only the key counts
--
-- Returns a letter per item in "states", in order, as far as it came:
--   c created        k created with an assigned key
--   u updated        e suppressed by a trigger, but the stored record equals what was sent
--   d deleted        s suppressed by a trigger
--   n a newer record is stored
--   a there is no such record
--   o not tried: the request was used with another body
--   f failed, x failed because the record exists: see the next of "sqlstates", "messages" and "columns"
-- commutes         whether the rows commute
-- is_by_key        the letters are in the order of "items", not of "sequence"
-- assigned         the keys of records that need a receipt, in the order of their letters; null: suppressed
-- stopped          the SQLSTATE, one of "transient", for which the next item was left; CT003: another
--                  statement of the same request is running, so that none was tried
-- beyond           the last key that was tried for the next item, for which none could be assigned
-- It also stops after a second, and after 64 savepoints that hold rows: past PGPROC's 64 cached
-- subtransactions the snapshots of every session slow down.
--
-- Raises CT001 if the isolation level is not read committed, and 57014 past the deadline. The functions that
-- it calls run with its search_path: one of their own would cost each call 1 to 2 µs.
create or replace function care_case_clinical_trial_apply_items(
    items care_case_clinical_trial_item[],
    sequence integer[],
    caller_user varchar,
    is_distinct boolean,
    request care_case_clinical_trial_request,
    deadline double precision,
    row_lock_timeout text,
    transient text[],
    must_commute boolean,
    mode text,
    out states text, out commutes boolean, out is_by_key boolean,
    out assigned integer[],
    out sqlstates text[], out messages text[], out columns text[],
    out stopped text, out beyond integer
)
language plpgsql
set search_path from current
as $$
declare
    known_keys integer[];
    is_partitioned boolean;
    done integer := 0;
    savepoints integer := 0;
    -- So many items have gone well since the last that failed, and are tried as one group.
    good_items integer := greatest(pg_catalog.cardinality(items), 32);
    last integer;
    -- The item at which a group failed; -1: one of the next group fails.
    suspect integer := 0;
    is_set_group boolean;
    group_keys integer[];
    at integer;
    error_table text; error_column text; error_constraint text;
begin
    states := '';
    commutes := care_case_clinical_trial_prepare(row_lock_timeout);
    if must_commute and not commutes then
        return;
    end if;
    is_partitioned := not commutes and care_case_clinical_trial_is_partitioned();
    if request.id is not null then
        if not pg_try_advisory_xact_lock(hashtextextended(request.id::text, 0::bigint)) then
            stopped := 'CT003';
            return;
        end if;
        known_keys := care_case_clinical_trial_find_receipts(request);
    end if;
    is_distinct := is_distinct and commutes and mode in ('upsert', 'newest')
        and (request.id is null or coalesce(pg_catalog.cardinality(pg_catalog.array_remove(known_keys, null)), 1) = 0);
    while done < pg_catalog.cardinality(items) and savepoints < 64 and stopped is null and beyond is null
        and (done = 0 or clock_timestamp() < statement_timestamp() + interval '1 s')
    loop
        last := least(
            done + case when good_items < 4 then 1 else good_items end,
            pg_catalog.cardinality(items),
            -- Those before the suspect, then it on its own.
            case when suspect > done then greatest(suspect - 1, done + 1) end
        );
        -- In a part of the items, those with key 0 do not come first.
        is_set_group := is_distinct and suspect >= 0 and last - done >= care_case_clinical_trial_min_set_items_cached() and (
            last - done = pg_catalog.cardinality(items)
            or coalesce(pg_catalog.cardinality(known_keys), 0) in (0, pg_catalog.cardinality(items))
        );
        group_keys := '{}';
        begin
            if not is_set_group then
                last := least(last, done + 32);
            else
                group_keys := care_case_clinical_trial_assign_keys(
                    least(last - done, coalesce(pg_catalog.cardinality(known_keys), 0)), request
                );
                states := states || care_case_clinical_trial_write_set(
                    items, sequence, done + 1, last, group_keys, caller_user, mode = 'newest'
                );
            end if;
            for i in length(states) + 1..last loop
                exit when i > 1 and clock_timestamp() > statement_timestamp() + interval '1 s';
                at := coalesce(sequence[i], i);
                if request.id is null or mode in ('replace', 'delete')
                    or mode <> 'create' and items[at].care_case_clinical_trial_key <> 0
                then
                    states := states
                        || care_case_clinical_trial_write_item(items[at], caller_user, mode, is_partitioned);
                elsif known_keys is null then
                    states := states || 'o';
                else
                    group_keys := group_keys operator(pg_catalog.||)
                        care_case_clinical_trial_create_item(items[at], known_keys[at], request, caller_user);
                    states := states || case
                        when group_keys[pg_catalog.cardinality(group_keys)] is null then 's'
                        when items[at].care_case_clinical_trial_key = 0 then 'k' else 'c'
                    end;
                end if;
            end loop;
            -- Again: a trigger may have deferred them. What refers to a deleted record is another table's.
            if not commutes or mode = 'delete' then
                set constraints all immediate;
            end if;
            is_by_key := is_set_group and length(states) - done = pg_catalog.cardinality(items);
            assigned := assigned operator(pg_catalog.||) group_keys;
            good_items := least(good_items + length(states) - done, 32);
            done := length(states);
            savepoints := savepoints + 1;
            suspect := greatest(suspect, 0);
        exception when others or assert_failure then
            if last - done > 1 then
                suspect := case
                    when not is_set_group then length(states) + 1
                    -- After a second wait for a lock in vain there is no third one.
                    when last - done <= 32 or array[sqlstate, left(sqlstate, 2)] operator(pg_catalog.&&) transient
                        then -1
                    else 0
                end;
                -- Behind the last item: a constraint that is checked at the end.
                good_items := case when suspect > last then (last - done) / 2 else least(good_items, 32) end;
                states := left(states, done);
                continue;
            end if;
            get stacked diagnostics
                error_table = table_name, error_column = column_name, error_constraint = constraint_name;
            states := left(states, done);
            if sqlstate = 'CT004' or array[sqlstate, left(sqlstate, 2)] operator(pg_catalog.&&) transient then
                stopped := nullif(sqlstate, 'CT004');
                beyond := case when stopped is null then sqlerrm::integer end;
                continue;
            end if;
            states := states || case
                when sqlstate <> '23505'
                    or not care_case_clinical_trial_is_key_taken(sqlerrm, error_table, error_constraint)
                    then 'f'
                -- Row-level security can hide the record that has an assigned key: try others for a second.
                when items[at].care_case_clinical_trial_key = 0
                    and (done > 0 or clock_timestamp() < statement_timestamp() + interval '1 s')
                    then ''
                when mode = 'create' then 'x' else 'f'
            end;
            continue when length(states) = done;
            sqlstates := sqlstates operator(pg_catalog.||) sqlstate;
            messages := messages operator(pg_catalog.||) sqlerrm;
            columns := columns operator(pg_catalog.||) error_column;
            done := done + 1;
            good_items := 0;
        end;
    end loop;
    messages := case when messages is not null then care_case_clinical_trial_without_shards(messages) end;
    perform care_case_clinical_trial_finish(
        states, mode, request, known_keys, assigned, case when is_by_key then null else sequence end, deadline
    );
end
$$;
