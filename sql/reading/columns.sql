-- The columns of a record in the order of service.wire.Item; both statements in this folder return them.
--
-- A date outside the years 1 to 9999 is the nearest moment in that range. {open} and {close} stand for
-- nothing, or for the call that returns a string as the bytes that are stored, whatever they are.
record.care_case_clinical_trial_key,
{open}record.care_case_clinical_trial_arm_id{close},
{open}record.care_case_clinical_trial_reason_id{close},
{open}record.care_case_clinical_trial_study_phase_id{close},
record.case_key,
{open}record.comment{close},
{open}record.disease{close},
case
    when record.entry_date > '9999-12-31 23:59:59.999999+00' then '9999-12-31 23:59:59.999999+00'
    when record.entry_date < '0001-01-01 00:00:00+00' then '0001-01-01 00:00:00+00'
    else record.entry_date
end,
{open}record.entry_user{close},
{open}record.inclusion_exclusion{close},
{open}record.location{close},
{open}record.protocol_number{close},
{open}record.study_drug{close},
{open}record.study_length{close},
{open}record.study_title{close},
case
    when record.update_date > '9999-12-31 23:59:59.999999+00' then '9999-12-31 23:59:59.999999+00'
    when record.update_date < '0001-01-01 00:00:00+00' then '0001-01-01 00:00:00+00'
    else record.update_date
end,
{open}record.update_user{close},
{open}record.website{close}
