-- The record of a key; no row where there is none.
--
-- $1  the key
-- Columns: those of a record, in the order of service.wire.Item
select
    care_case_clinical_trial_key,
    care_case_clinical_trial_arm_id,
    care_case_clinical_trial_reason_id,
    care_case_clinical_trial_study_phase_id,
    case_key,
    comment,
    disease,
    entry_date,
    entry_user,
    inclusion_exclusion,
    location,
    protocol_number,
    study_drug,
    study_length,
    study_title,
    update_date,
    update_user,
    website
from {schema}.care_case_clinical_trial
where care_case_clinical_trial_key = $1
