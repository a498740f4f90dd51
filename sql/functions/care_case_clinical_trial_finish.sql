-- Ends a call: writes its receipt, and makes what it reports durable, unless it is late.
--
-- states, mode   see care_case_clinical_trial_apply_items
-- request, known_keys, keys, positions  see care_case_clinical_trial_write_receipt; null: nothing needs one
-- deadline       seconds since 1970 by this server's clock
--
-- Raises 57014 past the deadline.
create or replace function care_case_clinical_trial_finish(
    states text,
    mode text,
    request care_case_clinical_trial_request,
    known_keys integer[],
    keys integer[],
    positions integer[],
    deadline double precision
)
returns void
language plpgsql
as $$
declare
    has_receipt constant boolean := known_keys is not null
        and care_case_clinical_trial_write_receipt(request, states, positions, known_keys, keys);
begin
    -- What was stored before, maybe by an attempt that still waits for its standby, is reported only when it
    -- is as durable as a write of this call would be: the commit of a message waits like any other (contract
    -- section 2, promise 1). A transaction id alone does not.
    if not has_receipt
        and states ~ '[eaxnkc]'
        and (mode = 'create' or states !~ '[cud]')
    then
        perform pg_logical_emit_message(true, 'care-trials', ''::text);
    end if;
    -- Otherwise the warning that the wait for a standby was cut short could be lost. Here, where no trigger of
    -- the tenant's can set it again.
    perform set_config('client_min_messages', 'warning', true);
    -- The last act. A call that passes it holds its rows' locks until the commit ends, so whatever is
    -- acknowledged after the deadline comes later; one that does not has written nothing.
    if clock_timestamp() > to_timestamp(deadline) then
        raise query_canceled using message = 'the deadline has passed';
    end if;
end
$$;
