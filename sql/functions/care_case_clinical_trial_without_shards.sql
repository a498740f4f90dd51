-- Returns error messages without the numbers of shards that the workers of Citus put into them; other
-- messages stay as they are.
create or replace function care_case_clinical_trial_without_shards(messages text[])
returns text[]
language plpgsql
as $$
declare
    shards text;
begin
    if to_regclass('pg_catalog.pg_dist_shard') is null then
        return messages;
    end if;
    shards := '_(' || (select string_agg(shard.shardid::text, '|') from pg_dist_shard as shard) || ')"';
    for i in 1..pg_catalog.cardinality(messages) loop
        messages[i] := regexp_replace(messages[i], shards, '"', 'g');
    end loop;
    return messages;
end
$$;
