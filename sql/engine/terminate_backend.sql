-- Ends what a lost connection may have left running, so that it cannot write after the
-- retry has; waits until it is gone. Only ever a session of this process's own.
--
-- $1 the lost connection's server process
-- Columns: has_ended; no row when there is nothing to end
select pg_terminate_backend(activity.pid, 5000) as has_ended
from pg_stat_activity as activity
where activity.pid = $1
    and activity.pid <> pg_backend_pid()
    and activity.application_name = current_setting('application_name')
