-- What an insert stores in the columns of names.sql: the fields of the item "sent", with their defaults.
--
-- asyncpg sends the first and the last moment that a Python datetime can hold (and that .NET writes
-- for "no date") as infinities; here they become what they were.
sent.care_case_clinical_trial_arm_id,
sent.care_case_clinical_trial_reason_id,
sent.care_case_clinical_trial_study_phase_id,
sent.case_key,
sent.comment,
sent.disease,
greatest(
    least(coalesce(sent.entry_date, now()), timestamptz '9999-12-31 23:59:59.999999+00'),
    timestamptz '0001-01-01 00:00:00+00'
),
coalesce(sent.entry_user, caller_user),
sent.inclusion_exclusion,
sent.location,
sent.protocol_number,
sent.study_drug,
sent.study_length,
sent.study_title,
greatest(
    least(coalesce(sent.update_date, now()), timestamptz '9999-12-31 23:59:59.999999+00'),
    timestamptz '0001-01-01 00:00:00+00'
),
coalesce(sent.update_user, caller_user),
sent.website
