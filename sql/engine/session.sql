-- Prepares a new session.
--
-- A transaction_timeout (PostgreSQL 17 and later) of the database or the role would end one statement for
-- the sake of all; the service has its own limits for each.
--
-- $1 whether the session is this process's own, so that settings can be made
-- Columns: seconds (the server's clock, since 1970), settings
select
    extract(epoch from clock_timestamp())::double precision as seconds,
    case
        when $1 and current_setting('transaction_timeout', true) is not null
            then set_config('transaction_timeout', '0', false)
    end as settings
