-- Whether rows of different keys commute.
create or replace function care_case_clinical_trial_commutes()
returns boolean
language plpgsql
set search_path from current
as $$
begin
    return (
        select not exists (
            select
            from care_case_clinical_trial_kept_from_commuting() as reason
        )
    );
end
$$;
