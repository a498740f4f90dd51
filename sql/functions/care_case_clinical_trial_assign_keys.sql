-- Assigns keys for a number of new records at once. (Sessions that assigned them in turns would meet at
-- every row in the same page of the index.)
--
-- Raises CT004 if one cannot be used (see care_case_clinical_trial_request); the records are then created
-- one at a time.
create or replace function care_case_clinical_trial_assign_keys(
    number integer,
    request care_case_clinical_trial_request
)
returns integer[]
language plpgsql
as $$
declare
    key_sequence regclass;
    keys integer[];
begin
    if number = 0 then
        return '{}';
    end if;
    key_sequence := pg_get_serial_sequence('care_case_clinical_trial', 'care_case_clinical_trial_key');
    keys := array(select nextval(key_sequence) from generate_series(1, number));
    if keys operator(pg_catalog.&&) ('{0}'::integer[] operator(pg_catalog.||) request.reserved)
        or request.reserved_from is not null and exists (
            select
            from pg_catalog.unnest(keys) as assigned (key)
            where assigned.key not between request.reserved_from and request.reserved_to
        )
    then
        raise exception 'a key is taken' using errcode = 'CT004';
    end if;
    return keys;
end
$$;
