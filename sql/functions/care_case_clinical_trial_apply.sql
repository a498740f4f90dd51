-- Applies items one after another, each in a savepoint of its own (contract section 1, "A batch
-- means its items one after another"), as far as it comes; the caller sends the rest again.
-- Where rows of different keys commute, all are tried by one statement first.
--
-- items          not sorted where "sequence" tells their order; those with key 0 are created
--                with a key that is drawn here, and come first
-- caller_user    the user name where an item names none
-- sequence       the order of the items, as positions in "items"; null: as they stand. (Sorted by
--                key they lock rows in one order; sorting here measured 0.8 times the speed.)
-- is_distinct    whether no key but 0 comes twice
-- request_id     names the request, for its receipts; null where it needs none: no item has key 0,
--                and the mode is not create
-- request_digest of its bytes
-- item_ranges    of the items with key 0, in the mode create of all: the places in the request,
--                which ascend; null where request_id is
-- reserved       keys that are not to be drawn: those that items of the batch name, all that lie
--                between reserved_from and reserved_to; null: none
-- deadline       seconds since 1970 by this server's clock, after which nothing is committed
-- patience       lock_timeout for rows, as text: short for all who hold others' rows
-- passing        SQLSTATEs, and classes of them, that do not lie in an item
-- must_commute   true: other items of the same batch may be at work, so nothing is written
--                unless rows of different keys commute
-- mode           what becomes of a record that exists, and of one that does not:
--   upsert         it is replaced; it is created
--   newest         it is replaced unless its update_date is later than the item's; it is created
--   create         it stays; it is created, with a receipt, so that a second attempt can tell that
--                  the first one did it
--   replace        it is replaced; none is created
--   delete         it is deleted; of the item only the key counts
--
-- Returns for each item dealt with, in order, a letter in "states":
--   c created   u updated   d deleted   e suppressed, but the stored record equals what was sent
--   s kept out by a trigger   k created with a drawn key, the next of "drawn"
--   n a newer record is stored   x the record exists   a it is absent
--   o not tried: the same request created records with another body
--   f failed: the next of "sqlstates", "messages" and "columns"
-- commutes       whether rows of different keys commute
-- is_by_key      the letters follow "items" instead of "sequence"
-- stopped        the SQLSTATE, one of "passing", for which the next item was left; CT003: another
--                statement of the same request is running, so that none was tried
-- beyond         the key drawn outside of reserved_from to reserved_to
-- It stops as well after a second, after 64 savepoints that hold rows (past PGPROC's 64 cached
-- subtransactions the snapshots of every session slow down) and after 10,000 taken keys.
--
-- Raises CT001 when the isolation level is not read committed, and 57014 past the deadline.
create or replace function care_case_clinical_trial_apply(
    items care_case_clinical_trial_item[],
    caller_user varchar,
    sequence integer[],
    is_distinct boolean,
    request_id uuid,
    request_digest uuid,
    item_ranges int4multirange,
    reserved integer[],
    reserved_from integer,
    reserved_to integer,
    deadline double precision,
    patience text,
    passing text[],
    must_commute boolean,
    mode text,
    out states text,
    out commutes boolean,
    out is_by_key boolean,
    out drawn integer[],
    out sqlstates text[],
    out messages text[],
    out columns text[],
    out stopped text,
    out beyond integer
)
language plpgsql
set search_path from current
as $$
declare
    -- asyncpg sends the first and the last moment that a Python datetime can hold (and
    -- that .NET writes for "no date") as infinities; they are what they were again here.
    first_moment constant timestamptz := timestamptz '0001-01-01 00:00:00+00';
    last_moment constant timestamptz := timestamptz '9999-12-31 23:59:59.999999+00';
    stop_at constant timestamptz := clock_timestamp() + interval '1 s';
    size constant integer := pg_catalog.cardinality(items);
    keyless integer := 0;
    item_places integer[];
    lock_timeout text;
    key_sequence regclass;
    known_places integer[];
    known_keys integer[];
    known integer;
    is_other_body boolean;
    is_set_based boolean;
    is_distributed boolean;
    is_partitioned boolean;
    refers_to_itself boolean;
    is_newest boolean;
    needs_keys boolean;
    looks_first boolean;
    -- A stored record whose update_date is later stays.
    latest timestamptz;
    is_newer boolean;
    is_known boolean;
    is_taken boolean;
    is_leaving boolean := false;
    done integer := 0;
    savepoints integer := 0;
    group_size integer := 32;
    last integer;
    failed_at integer;
    suspect integer;
    -- The number of items up to the last that failed, and of those after it.
    bad integer := -32;
    good integer;
    min_rows integer;
    is_set_group boolean;
    is_careful boolean := false;
    is_transient boolean;
    slice care_case_clinical_trial_item[];
    is_whole boolean;
    fresh integer;
    at integer;
    item care_case_clinical_trial_item;
    key integer;
    is_new boolean;
    draws integer := 0;
    collisions integer := 0;
    written_states text;
    written_keys integer[];
    group_drawn integer[] := '{}';
    group_places integer[];
    group_keys integer[];
    receipt_places integer[];
    receipt_keys integer[];
    error_message text;
    error_column text;
    error_table text;
    error_constraint text;
begin
    -- Few statements, each of which does much: PL/pgSQL prepares every one of them anew in each
    -- transaction.
    if current_setting('transaction_isolation') <> 'read committed'
        or current_setting('transaction_read_only')::boolean
        -- As long as it holds nothing that others want.
        or set_config('lock_timeout', '1s', true) is null
    then
        if current_setting('transaction_read_only')::boolean then
            raise read_only_sql_transaction;
        end if;
        raise exception 'expected the isolation level read committed, got %',
            current_setting('transaction_isolation')
            using errcode = 'CT001';
    end if;
    -- Before any savepoint: if DDL keeps the table, that is the database's fault, not an item's.
    -- From here to the end DDL waits, so what the catalogue says now stays true.
    lock table care_case_clinical_trial in row exclusive mode;
    select
        care_case_clinical_trial_commutes_cached()
        -- Depends on the role, too, which may change without a new plan.
        and not row_security_active('care_case_clinical_trial'),
        '',
        false,
        set_config('lock_timeout', patience, true),
        mode = 'newest',
        mode = 'newest' or care_case_clinical_trial_is_distributed_cached(),
        mode in ('newest', 'replace', 'delete'),
        timestamptz 'infinity',
        care_case_clinical_trial_is_distributed_cached()
    into commutes, states, is_by_key, lock_timeout, is_newest, needs_keys,
        looks_first, latest, is_distributed
    from (select count(*) from care_case_clinical_trial where false) as beside;
    if is_distributed then
        perform care_case_clinical_trial_set_workers(patience);
    end if;
    if not commutes then
        if must_commute then
            return;
        end if;
        set constraints all immediate;
        is_partitioned := exists (
            select
            from pg_class as relation
            where relation.oid = 'care_case_clinical_trial'::regclass
                and relation.relkind = 'p'
        );
        -- Its key locks the row that it refers to, which may be the new one itself.
        refers_to_itself := is_partitioned and exists (
            select
            from pg_constraint as rule
            where rule.conrelid = 'care_case_clinical_trial'::regclass
                and rule.confrelid = rule.conrelid
        );
        looks_first := looks_first or refers_to_itself;
    end if;
    if request_id is not null then
        item_places := array(
            select generate_series(pg_catalog.lower(each), pg_catalog.upper(each) - 1)
            from pg_catalog.unnest(item_ranges) as each
        );
        keyless := pg_catalog.cardinality(item_places);
        -- The lock comes first; the look at what it guards is a statement after it, since a
        -- statement's snapshot can be older than the lock that it takes.
        if not pg_try_advisory_xact_lock(hashtextextended(request_id::text, 0::bigint)) then
            stopped := 'CT003';
            return;
        end if;
        select
            pg_catalog.array_agg(known.place),
            pg_catalog.array_agg(known.key),
            -- All receipts of a request have the same digest.
            (
                select receipt.digest <> request_digest
                from care_case_clinical_trial_receipt as receipt
                where receipt.request = request_id
                limit 1
            )
        into known_places, known_keys, is_other_body
        from care_case_clinical_trial_receipt as receipt,
            unnest(
                array(
                    select generate_series(pg_catalog.lower(each), pg_catalog.upper(each) - 1)
                    from pg_catalog.unnest(receipt.places) as each
                ),
                receipt.keys
            ) as known (place, key)
        where receipt.request = request_id
            and receipt.first_place > pg_catalog.lower(item_ranges) - 2048
            and receipt.first_place < pg_catalog.upper(item_ranges)
            -- Not those of the items before, beside which all may go at once.
            and pg_catalog.upper(receipt.places) > pg_catalog.lower(item_ranges);
        key_sequence := pg_get_serial_sequence(
            'care_case_clinical_trial', 'care_case_clinical_trial_key'
        );
    end if;
    is_set_based := commutes and size > 1 and is_distinct and known_places is null
        and is_other_body is not true
        and mode in ('upsert', 'newest');
    if is_set_based then
        group_size := size;
        -- On Citus one statement goes to every shard, which takes as long as some 30 items do.
        min_rows := case when is_distributed then 33 else 2 end;
    end if;
    while done < size and savepoints < 64 and stopped is null and not is_leaving loop
        last := least(done + group_size, size);
        if suspect > done then
            -- Those before it, then it alone.
            last := least(last, greatest(suspect - 1, done + 1));
        end if;
        is_whole := last - done = size;
        -- In a part of the items, those without a key do not come first.
        is_set_group := is_set_based and not is_careful and last - done >= min_rows
            and (keyless in (0, size) or is_whole);
        begin
            if request_id is not null then
                group_drawn := '{}';
                group_places := '{}';
                group_keys := '{}';
            end if;
            if is_set_group then
                if not is_whole then
                    slice := case
                        when sequence is null then items[done + 1:last]
                        else array(
                            select items[element.at]
                            from pg_catalog.unnest(sequence[done + 1:last]) as element (at)
                        )
                    end;
                end if;
                if request_id is not null then
                    -- All at once: sessions that drew in turns would meet at every row in the same
                    -- page of the index.
                    group_places := item_places[done + 1:last];
                    group_keys := array(
                        select nextval(key_sequence) from pg_catalog.unnest(group_places)
                    );
                    if group_keys operator(pg_catalog.&&) ('{0}'::integer[] operator(pg_catalog.||) reserved)
                        or reserved_from is not null and exists (
                            select
                            from pg_catalog.unnest(group_keys) as drawn_key (key)
                            where drawn_key.key not between reserved_from and reserved_to
                        )
                    then
                        raise exception 'a drawn key is taken';
                    end if;
                    group_drawn := group_keys;
                end if;
                -- The first of the items, whose keys nobody has: those with a drawn key, and all
                -- where no record lies between the named keys (which are sorted). A plain insert
                -- costs 0.6 of one that may meet a record; where it meets one all the same, which
                -- came since the look, it fails, and the group goes on in parts.
                fresh := pg_catalog.cardinality(group_drawn);
                -- First what costs nothing: a condition with a query in it is a statement.
                if is_whole and size > 32 and fresh < size and not is_distributed then
                    if items[size].care_case_clinical_trial_key::bigint
                            - items[fresh + 1].care_case_clinical_trial_key < 10 * size
                        -- What the other statement would ask for.
                        and has_table_privilege('care_case_clinical_trial', 'update')
                        -- "Not exists" would drop the order, without which a table that has no
                        -- statistics may be read from end to end.
                        and (
                            select stored.care_case_clinical_trial_key
                            from care_case_clinical_trial as stored
                            where stored.care_case_clinical_trial_key
                                between items[fresh + 1].care_case_clinical_trial_key
                                and items[size].care_case_clinical_trial_key
                            order by stored.care_case_clinical_trial_key
                            limit 1
                        ) is null
                    then
                        fresh := size;
                    end if;
                end if;
                if fresh > 0 then
                    insert into care_case_clinical_trial (
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
                        coalesce(group_drawn[ordinality], sent.care_case_clinical_trial_key),
                        sent.care_case_clinical_trial_arm_id,
                        sent.care_case_clinical_trial_reason_id,
                        sent.care_case_clinical_trial_study_phase_id,
                        sent.case_key,
                        sent.comment,
                        sent.disease,
                        greatest(least(coalesce(sent.entry_date, now()), last_moment), first_moment),
                        coalesce(sent.entry_user, caller_user),
                        sent.inclusion_exclusion,
                        sent.location,
                        sent.protocol_number,
                        sent.study_drug,
                        sent.study_length,
                        sent.study_title,
                        greatest(least(coalesce(sent.update_date, now()), last_moment), first_moment),
                        coalesce(sent.update_user, caller_user),
                        sent.website
                    from pg_catalog.unnest(
                        case
                            when not is_whole then slice
                            when fresh = size then items
                            else items[1:fresh]
                        end
                    ) with ordinality as sent;
                    states := states
                        || repeat('k', pg_catalog.cardinality(group_drawn))
                        || repeat('c', fresh - pg_catalog.cardinality(group_drawn));
                end if;
                if fresh < last - done then
                    if fresh > 0 then
                        slice := items[fresh + 1:size];
                        is_whole := false;
                    end if;
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
                            sent.care_case_clinical_trial_key,
                            sent.care_case_clinical_trial_arm_id,
                            sent.care_case_clinical_trial_reason_id,
                            sent.care_case_clinical_trial_study_phase_id,
                            sent.case_key,
                            sent.comment,
                            sent.disease,
                            greatest(least(coalesce(sent.entry_date, now()), last_moment), first_moment),
                            coalesce(sent.entry_user, caller_user),
                            sent.inclusion_exclusion,
                            sent.location,
                            sent.protocol_number,
                            sent.study_drug,
                            sent.study_length,
                            sent.study_title,
                            greatest(least(coalesce(sent.update_date, now()), last_moment), first_moment),
                            coalesce(sent.update_user, caller_user),
                            sent.website
                        from pg_catalog.unnest(case when is_whole then items else slice end) as sent
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
                        where not is_newest or stored.update_date <= excluded.update_date
                        returning
                            stored.care_case_clinical_trial_key as key,
                            stored.xmax = 0 as is_new
                    )
                    select
                        string_agg(case when written.is_new then 'c' else 'u' end, ''),
                        pg_catalog.array_agg(written.key) filter (where needs_keys)
                    into written_states, written_keys
                    from written;
                    if is_distributed
                        or is_newest and length(coalesce(written_states, '')) < last - done - fresh
                    then
                        -- In the order of the items. Where rows commute, only a newer record keeps one
                        -- out.
                        written_states := (
                            select string_agg(
                                coalesce(substr(written_states, written.at::integer, 1), 'n'),
                                '' order by sent.ordinality
                            )
                            from pg_catalog.unnest(case when is_whole then items else slice end)
                                with ordinality as sent
                                left join pg_catalog.unnest(written_keys) with ordinality as written (key, at)
                                    on written.key = sent.care_case_clinical_trial_key
                        );
                    end if;
                    states := states || written_states;
                end if;
                is_by_key := last - done = size and sequence is not null;
            else
                for i in done + 1..last loop
                    if (i > 1 and clock_timestamp() > stop_at) then
                        is_leaving := true;
                        exit;
                    end if;
                    at := coalesce(sequence[i], i);
                    item := items[at];
                    if item.care_case_clinical_trial_key <> 0 and mode <> 'create'
                        or mode in ('replace', 'delete')
                    then
                        if looks_first then
                            if is_newest then
                                -- As it was sent, whatever a trigger makes of it.
                                latest := greatest(
                                    least(coalesce(item.update_date, now()), last_moment),
                                    first_moment
                                );
                                -- Before the statement, so that its triggers do not run in vain.
                                select stored.update_date > latest
                                into is_newer
                                from care_case_clinical_trial as stored
                                where stored.care_case_clinical_trial_key
                                    = item.care_case_clinical_trial_key
                                for no key update;
                                if is_newer then
                                    states := states || 'n';
                                    continue;
                                end if;
                                -- What row-level security hides is to be refused, as PostgreSQL
                                -- does after the condition; the look above must do there.
                                if row_security_active('care_case_clinical_trial') then
                                    latest := timestamptz 'infinity';
                                end if;
                            elsif mode = 'delete' then
                                delete from care_case_clinical_trial as stored
                                where stored.care_case_clinical_trial_key
                                    = item.care_case_clinical_trial_key;
                                states := states || case
                                    when found then 'd'
                                    when not exists (
                                        select
                                        from care_case_clinical_trial as stored
                                        where stored.care_case_clinical_trial_key
                                            = item.care_case_clinical_trial_key
                                    ) then 'a'
                                    else 's'
                                end;
                                continue;
                            elsif mode = 'replace' then
                                perform
                                from care_case_clinical_trial as stored
                                where stored.care_case_clinical_trial_key
                                    = item.care_case_clinical_trial_key
                                for no key update;
                                if not found then
                                    states := states || 'a';
                                    continue;
                                end if;
                            end if;
                            is_known := exists (
                                select
                                from care_case_clinical_trial as stored
                                where stored.care_case_clinical_trial_key
                                    = item.care_case_clinical_trial_key
                            );
                        end if;
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
                        values (
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
                        )
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
                        -- It may have come since the look.
                        where stored.update_date <= latest
                        returning
                            stored.care_case_clinical_trial_key,
                            case when is_partitioned is not true then stored.xmax = 0 end
                        into key, is_new;
                        if is_partitioned then
                            is_new := (
                                select stored.xmax = 0 or not is_known
                                from care_case_clinical_trial as stored
                                where stored.care_case_clinical_trial_key = key
                            );
                        end if;
                        if key is null then
                            states := states || case
                                when exists (
                                    select
                                    from care_case_clinical_trial as stored
                                    where stored.care_case_clinical_trial_key = item.care_case_clinical_trial_key
                                            and stored.care_case_clinical_trial_arm_id
                                                is not distinct from item.care_case_clinical_trial_arm_id
                                            and stored.care_case_clinical_trial_reason_id
                                                is not distinct from item.care_case_clinical_trial_reason_id
                                            and stored.care_case_clinical_trial_study_phase_id
                                                is not distinct from item.care_case_clinical_trial_study_phase_id
                                            and stored.case_key is not distinct from item.case_key
                                            and stored.comment is not distinct from item.comment
                                            and stored.disease is not distinct from item.disease
                                            and stored.inclusion_exclusion
                                                is not distinct from item.inclusion_exclusion
                                            and stored.location is not distinct from item.location
                                            and stored.protocol_number
                                                is not distinct from item.protocol_number
                                            and stored.study_drug
                                                is not distinct from item.study_drug
                                            and stored.study_length
                                                is not distinct from item.study_length
                                            and stored.study_title
                                                is not distinct from item.study_title
                                            and (
                                                item.update_date is null
                                                or stored.update_date = greatest(
                                                    least(item.update_date, last_moment), first_moment
                                                )
                                            )
                                            and (item.update_user is null or stored.update_user = item.update_user)
                                            and stored.website is not distinct from item.website
                                ) then 'e'
                                when exists (
                                    select
                                    from care_case_clinical_trial as stored
                                    where stored.care_case_clinical_trial_key
                                        = item.care_case_clinical_trial_key
                                        and stored.update_date > latest
                                ) then 'n'
                                else 's'
                            end;
                        else
                            states := states || case when is_new then 'c' else 'u' end;
                        end if;
                        continue;
                    end if;
                    if is_other_body then
                        states := states || 'o';
                        continue;
                    end if;
                    known := pg_catalog.array_position(known_places, item_places[at]);
                    if known is not null then
                        key := known_keys[known];
                    else
                        loop
                            draws := draws + 1;
                            key := case item.care_case_clinical_trial_key
                                when 0 then nextval(key_sequence)
                                else item.care_case_clinical_trial_key
                            end;
                            if item.care_case_clinical_trial_key = 0
                                and key not between reserved_from and reserved_to
                            then
                                beyond := key;
                            end if;
                            is_leaving := beyond is not null or draws > 10000;
                            exit when is_leaving or item.care_case_clinical_trial_key <> 0 or (
                                key <> 0
                                and (key = any (reserved)) is not true
                                and not exists (
                                    select
                                    from care_case_clinical_trial as stored
                                    where stored.care_case_clinical_trial_key = key
                                )
                            );
                        end loop;
                        exit when is_leaving;
                        item.care_case_clinical_trial_key := key;
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
                        values (
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
                        )
                        returning stored.care_case_clinical_trial_key
                        into key;
                        group_places := group_places operator(pg_catalog.||) item_places[at];
                        group_keys := group_keys operator(pg_catalog.||) key;
                    end if;
                    if key is null or items[at].care_case_clinical_trial_key <> 0 then
                        states := states || case when key is null then 's' else 'c' end;
                    else
                        states := states || 'k';
                        group_drawn := group_drawn operator(pg_catalog.||) key;
                    end if;
                end loop;
            end if;
            -- What refers to a deleted record is another table's constraint.
            if not commutes or mode = 'delete' then
                -- Anew: a trigger may have deferred what this checks.
                set constraints all immediate;
            end if;
            if length(states) < last and not is_leaving then
                raise exception 'a row is missing';
            end if;
            savepoints := savepoints + 1;
            if request_id is not null then
                drawn := drawn operator(pg_catalog.||) group_drawn;
                receipt_places := receipt_places operator(pg_catalog.||) group_places;
                receipt_keys := receipt_keys operator(pg_catalog.||) group_keys;
                collisions := 0;
            end if;
            done := length(states);
            -- Bad items come in runs: a few alone, then as many as have been good.
            good := done - bad;
            group_size := case when good < 4 then 1 else least(good, 32) end;
            is_careful := false;
        exception when others or assert_failure then
            -- None of the group counts.
            failed_at := length(states) + 1;
            states := left(states, done);
            is_transient := sqlstate = any (passing) or left(sqlstate, 2) = any (passing);
            if is_set_group then
                -- Which item failed is not known. Who waited for a lock in vain does so once more only.
                is_careful := last - done <= 32 or is_transient;
                group_size := least(group_size, 32);
            elsif last - done > 1 and failed_at <= last then
                suspect := failed_at;
            elsif last - done > 1 then
                -- A constraint that is checked at the end.
                group_size := (last - done) / 2;
            else
                get stacked diagnostics
                    error_message = message_text,
                    error_column = column_name,
                    error_table = table_name,
                    error_constraint = constraint_name;
                if is_distributed and error_table = '' then
                    select error.message, error.column_name, error.constraint_name
                    into error_message, error_column, error_constraint
                    from care_case_clinical_trial_read_worker_error(error_message) as error;
                end if;
                if is_transient then
                    stopped := sqlstate;
                else
                    is_taken := sqlstate = '23505'
                        and exists (
                            select
                            from pg_constraint as rule
                                join pg_class as relation on relation.oid = rule.conrelid
                            where (
                                    relation.oid = 'care_case_clinical_trial'::regclass
                                    or relation.oid in (
                                        select partition.relid
                                        from pg_partition_tree('care_case_clinical_trial') as partition
                                    )
                                )
                                and (relation.relname = error_table or is_distributed)
                                and rule.contype = 'p'
                                and rule.conname = error_constraint
                        );
                    if is_taken and items[at].care_case_clinical_trial_key = 0 and collisions < 1000 then
                        -- Row-level security hides the record that has the key: draw another.
                        collisions := collisions + 1;
                        continue;
                    end if;
                    if is_taken and mode = 'create' then
                        states := states || 'x';
                    else
                        states := states || 'f';
                        sqlstates := sqlstates operator(pg_catalog.||) sqlstate;
                        messages := messages operator(pg_catalog.||) error_message;
                        columns := columns operator(pg_catalog.||) error_column;
                    end if;
                    done := done + 1;
                    bad := done;
                    group_size := 1;
                    collisions := 0;
                end if;
            end if;
        end;
    end loop;
    if pg_catalog.cardinality(receipt_places) > 0 then
        insert into care_case_clinical_trial_receipt (request, first_place, places, keys, digest)
        values (
            request_id,
            receipt_places[1],
            case
                when pg_catalog.cardinality(receipt_places) = keyless then item_ranges
                else (
                    select pg_catalog.range_agg(int4range(place, place + 1))
                    from pg_catalog.unnest(receipt_places) as each (place)
                )
            end,
            receipt_keys,
            request_digest
        );
    end if;
    -- What was stored before, maybe by an attempt that still waits for its standby, is reported only
    -- when it is as durable as a write of this call would be: the commit of a message waits like any
    -- other (contract section 2, promise 1). A transaction id alone does not.
    if coalesce(pg_catalog.cardinality(receipt_places), 0) = 0
        and states ~ '[eaxnkc]'
        and (mode = 'create' or states !~ '[cud]')
    then
        perform pg_logical_emit_message(true, 'care-trials', ''::text);
    end if;
    -- Otherwise the warning that the wait for a standby was cut short could be lost. Here, where no trigger
    -- of the tenant's can set it again.
    perform set_config('client_min_messages', 'warning', true);
    -- The last act. Who passes it holds its rows' locks until the commit ends, so whatever is
    -- acknowledged after the deadline comes later; who does not has written nothing.
    if clock_timestamp() > to_timestamp(deadline) then
        raise query_canceled using message = 'the deadline has passed';
    end if;
end
$$;
