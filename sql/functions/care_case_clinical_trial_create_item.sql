-- Creates a record, with a key that is assigned here if the item has key 0, unless a receipt shows that
-- it was created.
--
-- known_key      the key in its receipt, 0 if its row was suppressed; null: it has no receipt
-- reserved       see care_case_clinical_trial_request
-- caller_user    the user name where the item has none
--
-- Returns the record's key; null: a trigger suppressed the row.
-- Raises CT004 where no key can be assigned, with the last one tried as its message: it lies outside of
-- reserved_from to reserved_to, or 10,000 in a row were taken. Raises 23505 for one that another
-- session took since the look, or that row-level security hides.
create or replace function care_case_clinical_trial_create_item(
    sent care_case_clinical_trial_item,
    known_key integer,
    request care_case_clinical_trial_request,
    caller_user varchar
)
returns integer
language plpgsql
as $$
declare
    key integer := sent.care_case_clinical_trial_key;
    tries integer := 0;
    is_taken boolean;
begin
    if known_key is not null then
        return nullif(known_key, 0);
    end if;
    while key = 0 or is_taken loop
        tries := tries + 1;
        select assigned.key, exists (
            select
            from care_case_clinical_trial as stored
            where stored.care_case_clinical_trial_key = assigned.key
        )
        into key, is_taken
        from nextval(care_case_clinical_trial_key_sequence_cached()) as assigned (key);
        is_taken := is_taken or (key = any (request.reserved)) is true;
        if key not between request.reserved_from and request.reserved_to or tries > 10000 then
            raise exception '%', key using errcode = 'CT004';
        end if;
    end loop;
    insert into care_case_clinical_trial as stored (care_case_clinical_trial_key, {names})
    values (key, {values})
    returning stored.care_case_clinical_trial_key
    into key;
    return key;
end
$$;
