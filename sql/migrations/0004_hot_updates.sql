-- migrate:up

-- Half of each new page stays free, so that an update finds room beside the version that it
-- replaces and leaves the index alone (HOT; PostgreSQL's documentation, "Heap-Only Tuples"), and
-- what sending everything again leaves dead is reused at once. Pages that are full already stay
-- as they are: docs/operating.md, "Room for updates".
alter table care_case_clinical_trial set (fillfactor = 50);

-- migrate:down

alter table care_case_clinical_trial reset (fillfactor);
