-- A page of the records in some order, and how many records there are in all.
--
-- {order} is no parameter, since PostgreSQL takes none there: service/engine/reading.py puts column
-- names of its own in its place, each with asc or desc, and never a text of the caller's. The page is
-- found by keys alone, so that the records before it are not fetched. Its size is looked at before it
-- is read; octet_length() does not decompress.
--
-- $1  the maximum number of records
-- $2  the number of records before them
-- $3  the maximum number of bytes of text; a page that has more is not read
-- Columns: total, size (bytes of text on the page), and those in columns.sql; the record key is null
-- in a single row if the page is empty or too large
with page as (
    select record.care_case_clinical_trial_key
    from {schema}.care_case_clinical_trial as record
    order by {order}
    limit $1
    offset $2
),

measured as (
    select
        coalesce(
            sum(
                coalesce(octet_length(record.comment), 0)
                + coalesce(octet_length(record.disease), 0)
                + coalesce(octet_length(record.inclusion_exclusion), 0)
                + coalesce(octet_length(record.location), 0)
                + coalesce(octet_length(record.protocol_number), 0)
                + coalesce(octet_length(record.study_drug), 0)
                + coalesce(octet_length(record.study_length), 0)
                + coalesce(octet_length(record.study_title), 0)
                + coalesce(octet_length(record.website), 0)
            ),
            0
        )::bigint as size
    from page
        join {schema}.care_case_clinical_trial as record using (care_case_clinical_trial_key)
)

select
    counted.total,
    measured.size,
{columns}
from (select count(*) as total from {schema}.care_case_clinical_trial) as counted
    cross join measured
    left join (
        page join {schema}.care_case_clinical_trial as record using (care_case_clinical_trial_key)
    ) on measured.size <= $3
order by {order}
