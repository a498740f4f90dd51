-- Distributes the record table over the workers of Citus by its key, unless it is already; its
-- records move there.
--
-- Four shards a worker: the number cannot be changed later, since the key is an identity column,
-- and workers that are added later take over whole shards.
select create_distributed_table(
    '{schema}.care_case_clinical_trial',
    'care_case_clinical_trial_key',
    shard_count => (
        select greatest(4 * count(*), 4)::integer
        from pg_dist_node as node
        where node.noderole = 'primary'
            and node.isactive
            and node.shouldhaveshards
    )
)
where not exists (
    select
    from pg_dist_partition as distributed
    where distributed.logicalrelid = '{schema}.care_case_clinical_trial'::regclass
)
