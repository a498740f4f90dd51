-- Whether the record "stored" equals all that the item "sent" would write to it.
stored.care_case_clinical_trial_key = sent.care_case_clinical_trial_key
and stored.care_case_clinical_trial_arm_id is not distinct from sent.care_case_clinical_trial_arm_id
and stored.care_case_clinical_trial_reason_id is not distinct from sent.care_case_clinical_trial_reason_id
and stored.care_case_clinical_trial_study_phase_id is not distinct from sent.care_case_clinical_trial_study_phase_id
and stored.case_key is not distinct from sent.case_key
and stored.comment is not distinct from sent.comment
and stored.disease is not distinct from sent.disease
and stored.inclusion_exclusion is not distinct from sent.inclusion_exclusion
and stored.location is not distinct from sent.location
and stored.protocol_number is not distinct from sent.protocol_number
and stored.study_drug is not distinct from sent.study_drug
and stored.study_length is not distinct from sent.study_length
and stored.study_title is not distinct from sent.study_title
and (
    sent.update_date is null
    or stored.update_date = greatest(least(sent.update_date, timestamptz '9999-12-31 23:59:59.999999+00'), timestamptz '0001-01-01 00:00:00+00')
)
and (sent.update_user is null or stored.update_user = sent.update_user)
and stored.website is not distinct from sent.website
