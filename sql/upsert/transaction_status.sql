-- The fate of a transaction whose COMMIT was sent and never answered.
--
-- $1 transaction id, as text
-- Columns: status: committed, aborted, in progress, or null (too old to tell)
select pg_xact_status($1::text::xid8) as status
