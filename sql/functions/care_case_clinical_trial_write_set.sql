-- Writes many items of different keys at once, as one statement or two, on a table whose rows commute.
-- Any error lies in one of them, which one is unknown.
--
-- items          sorted by key
-- sequence       their order, as positions in "items"; null: as they stand
-- first, last    the items to write, as places in this order; if all, the order of "items" is used
-- assigned       the keys that were assigned to the items with key 0, which come first
-- caller_user    the user name where an item has none
-- is_newest      a record whose update_date is later than the item's stays
--
-- Returns a state per item, in the order used (see care_case_clinical_trial_apply_items).
create or replace function care_case_clinical_trial_write_set(
    items care_case_clinical_trial_item[],
    sequence integer[],
    first integer,
    last integer,
    assigned integer[],
    caller_user varchar,
    is_newest boolean
)
returns text
language plpgsql
as $$
declare
    size constant integer := last - first + 1;
    -- The first of the items, whose keys nobody has.
    new_items integer := coalesce(pg_catalog.cardinality(assigned), 0);
    states text := repeat('k', new_items);
    others text;
    is_distributed boolean;
    keys integer[];
begin
    if size < pg_catalog.cardinality(items) then
        items := case
            when sequence is null then items[first:last]
            else array(
                select items[element.at]
                from pg_catalog.unnest(sequence[first:last]) as element (at)
            )
        end;
    end if;
    -- More than 32 are all, so that they are sorted.
    if size > 32 and new_items < size and care_case_clinical_trial_are_new(items, new_items + 1) then
        new_items := size;
    end if;
    -- A plain insert costs 0.6 of one that may meet a record. One that was created since the look is an
    -- error, after which the items are tried in parts.
    if new_items > 0 then
        insert into care_case_clinical_trial (care_case_clinical_trial_key, {names})
        select coalesce(assigned[ordinality], sent.care_case_clinical_trial_key), {values}
        from pg_catalog.unnest(case when new_items = size then items else items[:new_items] end)
            with ordinality as sent;
        states := states || repeat('c', new_items - length(states));
    end if;
    if new_items = size then
        return states;
    end if;
    with written as (
        insert into care_case_clinical_trial as stored (care_case_clinical_trial_key, {names})
        select sent.care_case_clinical_trial_key, {values}
        from pg_catalog.unnest(case when new_items = 0 then items else items[new_items + 1:] end) as sent
        on conflict (care_case_clinical_trial_key) do update set {updates}
        where not is_newest or stored.update_date <= excluded.update_date
        returning stored.care_case_clinical_trial_key as key, stored.xmax = 0 as is_new
    )
    select
        string_agg(case when written.is_new then 'c' else 'u' end, ''),
        bool_or(care_case_clinical_trial_is_distributed_cached()),
        pg_catalog.array_agg(written.key)
            filter (where is_newest or care_case_clinical_trial_is_distributed_cached())
    into others, is_distributed, keys
    from written;
    -- Citus returns the rows in an order of its own. Otherwise a row is missing where a newer record
    -- stays: nothing else suppresses one where rows commute.
    if is_distributed or is_newest and length(coalesce(others, '')) < size - new_items then
        others := (
            select string_agg(
                coalesce(substr(others, written.place::integer, 1), 'n'),
                '' order by sent.ordinality
            )
            from pg_catalog.unnest(items) with ordinality as sent
                left join pg_catalog.unnest(keys) with ordinality as written (key, place)
                    on written.key = sent.care_case_clinical_trial_key
            where sent.ordinality > new_items
        );
    end if;
    states := states || others;
    if length(states) is distinct from size then
        raise exception 'a row is missing';
    end if;
    return states;
end
$$;
