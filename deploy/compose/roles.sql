-- The serving role: it can use the tables that the migrations create later, but cannot change the
-- schema. Run once by psql, as the owner, in the database acme, before the migrations.

\set password `cat /run/secrets/service_password`

create role service login password :'password';

-- It must also delete receipts: migration 0001 grants that to each role that can insert records.
alter default privileges in schema public
grant select, insert, update on tables to service;

alter default privileges in schema public
grant usage, update on sequences to service;
