-- What the migration tool must know of the server that a DSN leads to.
--
-- Columns: is_encrypted (the connection uses TLS), is_standby
select
    coalesce(
        (select state.ssl from pg_stat_ssl as state where state.pid = pg_backend_pid()),
        false
    ) as is_encrypted,
    pg_is_in_recovery() as is_standby
