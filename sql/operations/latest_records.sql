-- The records that were updated last, for a person who wants to see what was stored.
--
-- Columns: key, title, drug, updated, by
select
    care_case_clinical_trial_key as key,
    left(study_title, 50) as title,
    left(study_drug, 20) as drug,
    update_date as updated,
    update_user as by
from care_case_clinical_trial
order by update_date desc, care_case_clinical_trial_key
limit 20;
