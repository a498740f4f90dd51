-- The role that serves: it may use what the migrations are going to create, and change nothing of
-- the schema. Run once by psql, as the owner, in the database acme, before the migrations.

\set password `cat /run/secrets/service_password`

create role service login password :'password';

-- Where it also has to delete, in the receipts of records that came without a key, migration 0003
-- grants that to whoever may insert records.
alter default privileges in schema public
grant select, insert, update on tables to service;

alter default privileges in schema public
grant usage, update on sequences to service;
