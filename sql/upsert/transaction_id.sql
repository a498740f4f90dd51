-- Names the transaction in which it runs, so that after a lost connection its fate can be
-- asked for.
--
-- Columns: transaction_id
select pg_current_xact_id()::text as transaction_id
