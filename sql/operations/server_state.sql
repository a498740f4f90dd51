-- What decides whether a server can hold what the service promises.
--
-- Columns: version, user_name, is_standby, connections (how many this role may have at most, by
-- the server's limit, its database's and its own), is_durable (whether what is committed is on
-- disk), isolation (of transactions, unless the session asks for another), statement_timeout,
-- transaction_timeout (null before PostgreSQL 17), search_path
select
    current_setting('server_version') as version,
    current_user::text as user_name,
    pg_is_in_recovery() as is_standby,
    least(
        current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true), '0')::integer,
        (
            select nullif(base.datconnlimit, -1)
            from pg_database as base
            where base.datname = current_database()
        ),
        (select nullif(role.rolconnlimit, -1) from pg_roles as role where role.rolname = current_user)
    ) as connections,
    current_setting('synchronous_commit') <> 'off' and current_setting('fsync') = 'on' as is_durable,
    current_setting('default_transaction_isolation') as isolation,
    current_setting('statement_timeout') as statement_timeout,
    current_setting('transaction_timeout', true) as transaction_timeout,
    current_setting('search_path') as search_path
