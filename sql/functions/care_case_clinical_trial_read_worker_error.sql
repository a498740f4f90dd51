-- Reads what Citus leaves out of a worker's error, which has no other field than its message, and
-- takes the numbers of shards out of the message.
create or replace function care_case_clinical_trial_read_worker_error(
    inout message text,
    out column_name text,
    out constraint_name text
)
language plpgsql
set search_path from current
as $$
begin
    message := regexp_replace(
        message,
        '_(' || (select string_agg(shard.shardid::text, '|') from pg_dist_shard as shard) || ')"',
        '"',
        'g'
    );
    column_name := substring(message from '^null value in column "([^"]+)"');
    constraint_name := substring(message from 'constraint "([^"]+)"$');
end
$$;
