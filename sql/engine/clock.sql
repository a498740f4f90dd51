-- The server's clock, by which the deadlines of statements are told.
--
-- Columns: seconds, since 1970
select extract(epoch from clock_timestamp())::double precision as seconds
