-- Returns what earlier attempts of a request did with the items at its places, in their order: the key of
-- the record that was created, 0 if its row was suppressed, null if nothing is known. Returns null if the
-- request was used with another body.
--
-- The caller holds the request's lock since before this call: the snapshot of a statement can be older than
-- a lock that it takes.
create or replace function care_case_clinical_trial_find_receipts(
    request care_case_clinical_trial_request
)
returns integer[]
language plpgsql
as $$
declare
    keys integer[] := pg_catalog.array_fill(null::integer, array[(
        select sum(pg_catalog.upper(piece) - pg_catalog.lower(piece))
        from pg_catalog.unnest(request.places) as piece
    )::integer]);
    places integer[];
    known record;
begin
    -- All receipts of a request have the same digest.
    if (
        select receipt.digest <> request.digest
        from care_case_clinical_trial_receipt as receipt
        where receipt.request = request.id
        limit 1
    ) then
        return null;
    end if;
    for known in
        select element.place, coalesce(element.key, 0) as key
        from care_case_clinical_trial_receipt as receipt
            cross join lateral unnest(
                care_case_clinical_trial_list_places(receipt.places),
                receipt.keys
            ) as element (place, key)
        where receipt.request = request.id
            -- The places of a receipt are less than 2,048 apart.
            and receipt.first_place > pg_catalog.lower(request.places) - 2048
            and receipt.first_place < pg_catalog.upper(request.places)
            and pg_catalog.upper(receipt.places) > pg_catalog.lower(request.places)
            and element.place operator(pg_catalog.<@) request.places
    loop
        places := coalesce(places, care_case_clinical_trial_list_places(request.places));
        keys[pg_catalog.array_position(places, known.place)] := known.key;
    end loop;
    return keys;
end
$$;
