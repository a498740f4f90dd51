-- Writes a receipt of the records that this call created, or whose rows a trigger suppressed, if there are any.
--
-- states         of the items, in their order; those with key 0 come first in "positions"
-- positions      the position of each item among all of the request's places; null: as they come
-- known_keys     what earlier receipts say, by position; an item with one needs no other
-- keys           of the items in states k, c and s that have a place, in the order of the states
--
-- Returns whether there were any.
create or replace function care_case_clinical_trial_write_receipt(
    request care_case_clinical_trial_request,
    states text,
    positions integer[],
    known_keys integer[],
    keys integer[]
)
returns boolean
language plpgsql
as $$
declare
    size constant integer := pg_catalog.cardinality(known_keys);
    places integer[];
begin
    -- Mostly all were created just now.
    if pg_catalog.cardinality(keys) = size and pg_catalog.cardinality(pg_catalog.array_remove(known_keys, null)) = 0 then
        insert into care_case_clinical_trial_receipt (request, first_place, places, keys, digest)
        values (request.id, pg_catalog.lower(request.places), request.places, keys, request.digest);
        return true;
    end if;
    places := care_case_clinical_trial_list_places(request.places);
    insert into care_case_clinical_trial_receipt (request, first_place, places, keys, digest)
    select
        request.id,
        min(created.place),
        pg_catalog.range_agg(int4range(created.place, created.place + 1)),
        pg_catalog.array_agg(created.key order by created.place),
        request.digest
    from (
        select
            places[item.position] as place,
            keys[(row_number() over (order by item.at))::integer] as key,
            known_keys[item.position] as known_key
        from (
            select letter.at, coalesce(positions[letter.at], letter.at) as position
            from pg_catalog.generate_series(1, length(states)) as letter (at)
            where substr(states, letter.at, 1) in ('k', 'c', 's')
        ) as item
        where item.position <= size
    ) as created
    where created.known_key is null
    having count(*) > 0;
    return found;
end
$$;
