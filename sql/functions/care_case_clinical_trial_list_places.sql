-- Returns the numbers that ranges contain, ascending.
create or replace function care_case_clinical_trial_list_places(ranges int4multirange)
returns integer[]
language plpgsql
immutable
as $$
begin
    return array(
        select pg_catalog.generate_series(pg_catalog.lower(piece), pg_catalog.upper(piece) - 1)
        from pg_catalog.unnest(ranges) as piece
    );
end
$$;
