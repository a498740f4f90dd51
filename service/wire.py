"""Names on the wire (contract section 1): path, headers, the structs with limits and meanings."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType, field

BATCH_PATH = "/care-case-clinical-trials-batch"
RECORDS_PATH = "/care-case-clinical-trials"
DOCS_PATH = "/docs"
LIVE_PATH = "/livez"

API_KEY_HEADER = "x-api-key"
DATABASE_HEADER = "vbasoftware-database"
ACTIVITY_HEADER = "X-Activity-ID"
RATE_LIMIT_HEADER = "RateLimit"
RATE_LIMIT_POLICY_HEADER = "RateLimit-Policy"
"""Of draft-ietf-httpapi-ratelimit-headers."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
PAGINATION_HEADER = "x-pagination"
PREFER_HEADER = "Prefer"
PREFERENCE_APPLIED_HEADER = "Preference-Applied"

KEY_FIELD = "careCaseClinicalTrial_Key"

DEFAULT_MAX_BATCH_ITEMS = 100_000
"""Of a batch at most, unless a service is configured otherwise."""

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
"""Of a page, unless the caller asks for another number, and at most."""

MAX_USER_NAME_LENGTH = 20
MAX_CODE_LENGTH = 64

CONTRACT_PATH = f"{DOCS_PATH}/contract.md"
"""Where each service shows its copy of docs/contract.md."""

MAX_MESSAGE_LENGTH = 500
"""Characters that an outcome's message has at most: it may quote a field's name or a trigger."""

SAMPLE = Path(__file__).with_name("sample.json")
"""Registered trials, a batch to try the service with."""

INT32 = range(-(2**31), 2**31)
Int32 = Annotated[int, Meta(ge=INT32[0], le=INT32[-1])]
Code = Annotated[str, Meta(max_length=MAX_CODE_LENGTH)]
AwareDateTime = Annotated[datetime, Meta(tz=True)]
UserName = Annotated[str, Meta(max_length=MAX_USER_NAME_LENGTH)]


class Item(Struct, gc=False):
    """One clinical-trial record of a care case. It is replaced as a whole.

    The order of the fields is the order of the columns of the SQL type
    ``care_case_clinical_trial_item``; each field has its column's name. A date that is
    None was not sent: null is refused.
    """

    care_case_clinical_trial_key: Annotated[
        Int32,
        Meta(
            description="The record's key. 0: there is none yet; the record is created and the"
            " outcome's `id` tells the key that the database gave it."
        ),
    ] = field(name=KEY_FIELD)
    care_case_clinical_trial_arm_id: Annotated[
        Code | None, Meta(description="Code of the trial's arm.")
    ] = field(name="careCaseClinicalTrialArm_ID", default=None)
    care_case_clinical_trial_reason_id: Annotated[
        Code | None, Meta(description="Code of the reason for the trial.")
    ] = field(name="careCaseClinicalTrialReason_ID", default=None)
    care_case_clinical_trial_study_phase_id: Annotated[
        Code | None, Meta(description="Code of the study's phase.")
    ] = field(name="careCaseClinicalTrialStudyPhase_ID", default=None)
    case_key: Annotated[Int32 | None, Meta(description="Key of the care case.")] = field(
        name="case_Key", default=None
    )
    comment: Annotated[str | None, Meta(description="Free text.")] = None
    disease: Annotated[str | None, Meta(description="The condition under study.")] = None
    entry_date: Annotated[
        AwareDateTime,
        Meta(
            description="When the record was created; set once. Default: now. RFC 3339, an offset"
            " is optional (UTC); also `2025-01-02 03:04:05 UTC`, `2025-01-02 03:04:05 -0500`,"
            " `2025-01-02 03:04:05+00`, `2025-01-02T03:04Z`, `2025-01-02`."
        ),
    ] = field(name="entry_Date", default=None)  # type: ignore[assignment]
    entry_user: Annotated[
        UserName | None,
        Meta(description="Who created the record; set once. Default: the caller."),
    ] = field(name="entry_User", default=None)
    inclusion_exclusion: Annotated[
        str | None, Meta(description="Inclusion and exclusion criteria.")
    ] = field(name="inclusionExclusion", default=None)
    location: Annotated[str | None, Meta(description="Where the trial takes place.")] = None
    protocol_number: Annotated[
        str | None, Meta(description="The protocol's number, such as an NCT number.")
    ] = field(name="protocol_Number", default=None)
    study_drug: Annotated[str | None, Meta(description="The drug under study.")] = field(
        name="study_Drug", default=None
    )
    study_length: Annotated[str | None, Meta(description="How long the study lasts.")] = field(
        name="study_Length", default=None
    )
    study_title: Annotated[str | None, Meta(description="The study's title.")] = field(
        name="study_Title", default=None
    )
    update_date: Annotated[
        AwareDateTime,
        Meta(
            description="When the record was updated, in the forms of `entry_Date`. Default: now."
        ),
    ] = field(name="update_Date", default=None)  # type: ignore[assignment]
    update_user: Annotated[
        UserName | None, Meta(description="Who updated the record. Default: the caller.")
    ] = field(name="update_User", default=None)
    website: Annotated[str | None, Meta(description="Where the study is described.")] = None


class StrictItem(Item, gc=False, forbid_unknown_fields=True):
    """An item in which an unknown field is an error (the default)."""


class KeyOnlyItem(Struct):
    """All that is read of an item which is no valid record: its key, where it has one."""

    # As a float, because an integer of thousands of digits takes long to read.
    number: float | None = field(name=KEY_FIELD, default=None)

    @property
    def key(self) -> int | None:
        """The key; a number whose value is whole is an integer, however it is written."""
        if self.number is None or not self.number.is_integer() or abs(self.number) > 2**53:
            return None
        return int(self.number)


class Outcome(Struct, gc=False, frozen=True):
    """What became of one item.

    ``key`` is the record's key as the envelope reports it, None where it could not be
    read; ``status`` and ``body`` are those of the contract's table of item outcomes.
    """

    key: int | None
    status: int
    body: str


def shorten_message(message: str) -> str:
    """Return a message as an outcome carries it."""
    return (
        message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"
    )


class KeyValuePair(Struct):
    """A key field's name and its value."""

    key: str
    value: str | None


class MultiCodeResponse(Struct):
    """One outcome as the envelope carries it."""

    id: list[KeyValuePair]
    status: int
    body: str
    index: Annotated[
        int | UnsetType,
        Meta(description="The item's place in the request, from 0; only with `return=minimal`."),
    ] = UNSET


class ProblemDetails(Struct):
    """Why a whole request failed: the fields of RFC 9457.

    ``type`` leads to what the contract says of the status.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str


def make_problem_type(status: int) -> str:
    """Return the ``type`` of the problems of a status."""
    return f"{CONTRACT_PATH}#{status}"


class Debug(Struct):
    """What an operator needs to find the request in the log."""

    activity_id: str = field(name="activityID")
    created: Annotated[
        int | UnsetType, Meta(description="How many were; only with `return=minimal`.")
    ] = UNSET
    updated: Annotated[
        int | UnsetType, Meta(description="How many were; only with `return=minimal`.")
    ] = UNSET
    failed: Annotated[
        int | UnsetType, Meta(description="How many did; only with `return=minimal`.")
    ] = UNSET


class Pagination(Struct, rename="pascal"):
    """Which page of how many a list is, as the header ``x-pagination`` tells it."""

    total_count: int
    total_pages: int
    current_page: int
    page_size: int


class RecordEnvelope(Struct):
    """The body of an answer about one record."""

    data: Item | None
    error: ProblemDetails | None
    debug: Debug


class RecordListEnvelope(Struct):
    """The body of an answer with a page of records."""

    data: list[Item] | None
    error: ProblemDetails | None
    debug: Debug


class Envelope(Struct):
    """The body of all other answers; a 207 is streamed in the same form."""

    data: list[MultiCodeResponse] | None
    error: ProblemDetails | None
    debug: Debug


ENVELOPE_START = b'{"data":['
