"""Paths, headers and structs of the API with limits and descriptions (contract section 1)."""

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
"""Both from draft-ietf-httpapi-ratelimit-headers."""

IDEMPOTENCY_HEADER = "Idempotency-Key"
PAGINATION_HEADER = "x-pagination"
PREFER_HEADER = "Prefer"
PREFERENCE_APPLIED_HEADER = "Preference-Applied"

KEY_FIELD = "careCaseClinicalTrial_Key"

DEFAULT_MAX_BATCH_ITEMS = 100_000
"""Default of the setting ``server.max_batch_items``."""

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
"""Default and maximum of the query parameter ``pageSize``."""

MAX_USER_NAME_LENGTH = 20
MAX_CODE_LENGTH = 64

CONTRACT_PATH = f"{DOCS_PATH}/contract.md"
"""Path of the copy of docs/contract.md that each service serves."""

MAX_MESSAGE_LENGTH = 500
"""Maximum characters of an outcome's message, which can quote a field name or a trigger's error."""

SAMPLE = Path(__file__).with_name("sample.json")
"""A batch of registered trials to try the service with."""

INT32 = range(-(2**31), 2**31)
Int32 = Annotated[int, Meta(ge=INT32[0], le=INT32[-1])]
Code = Annotated[str, Meta(max_length=MAX_CODE_LENGTH)]
AwareDateTime = Annotated[datetime, Meta(tz=True)]
UserName = Annotated[str, Meta(max_length=MAX_USER_NAME_LENGTH)]


class Item(Struct, gc=False):
    """One care-case clinical-trial record. An update replaces the whole record.

    The fields have the names and the order of the columns of the SQL type
    ``care_case_clinical_trial_item``. A date is None if it was omitted; null is rejected.
    """

    care_case_clinical_trial_key: Annotated[
        Int32,
        Meta(
            description='The record key. 0 means "assign a record key": the record is created,'
            " and the outcome's `id` reports the record key that the database assigned."
        ),
    ] = field(name=KEY_FIELD)
    care_case_clinical_trial_arm_id: Annotated[
        Code | None, Meta(description="Code of the trial arm.")
    ] = field(name="careCaseClinicalTrialArm_ID", default=None)
    care_case_clinical_trial_reason_id: Annotated[
        Code | None, Meta(description="Code of the reason for the trial.")
    ] = field(name="careCaseClinicalTrialReason_ID", default=None)
    care_case_clinical_trial_study_phase_id: Annotated[
        Code | None, Meta(description="Code of the study phase.")
    ] = field(name="careCaseClinicalTrialStudyPhase_ID", default=None)
    case_key: Annotated[Int32 | None, Meta(description="Key of the care case.")] = field(
        name="case_Key", default=None
    )
    comment: Annotated[str | None, Meta(description="Free text.")] = None
    disease: Annotated[str | None, Meta(description="Condition under study.")] = None
    entry_date: Annotated[
        AwareDateTime,
        Meta(
            description="Time of creation. It is set when the record is created and never changes"
            " afterwards. Default: now. RFC 3339; without an offset it is UTC. Also accepted:"
            " `2025-01-02 03:04:05 UTC`, `2025-01-02 03:04:05 -0500`, `2025-01-02 03:04:05+00`,"
            " `2025-01-02T03:04Z`, `2025-01-02`."
        ),
    ] = field(name="entry_Date", default=None)  # type: ignore[assignment]
    entry_user: Annotated[
        UserName | None,
        Meta(
            description="User who created the record. It is set when the record is created and"
            " never changes afterwards. Default: the caller's user name."
        ),
    ] = field(name="entry_User", default=None)
    inclusion_exclusion: Annotated[
        str | None, Meta(description="Inclusion and exclusion criteria.")
    ] = field(name="inclusionExclusion", default=None)
    location: Annotated[str | None, Meta(description="Location of the trial.")] = None
    protocol_number: Annotated[
        str | None, Meta(description="Protocol number, for example an NCT number.")
    ] = field(name="protocol_Number", default=None)
    study_drug: Annotated[str | None, Meta(description="Drug under study.")] = field(
        name="study_Drug", default=None
    )
    study_length: Annotated[str | None, Meta(description="Duration of the study.")] = field(
        name="study_Length", default=None
    )
    study_title: Annotated[str | None, Meta(description="Title of the study.")] = field(
        name="study_Title", default=None
    )
    update_date: Annotated[
        AwareDateTime,
        Meta(description="Time of the update, in one of the forms of `entry_Date`. Default: now."),
    ] = field(name="update_Date", default=None)  # type: ignore[assignment]
    update_user: Annotated[
        UserName | None,
        Meta(description="User who updated the record. Default: the caller's user name."),
    ] = field(name="update_User", default=None)
    website: Annotated[str | None, Meta(description="Address of a page about the study.")] = None


class StrictItem(Item, gc=False, forbid_unknown_fields=True):
    """An item in which an unknown field is an error (``ignore_unknown_fields = false``)."""


class KeyOnlyItem(Struct):
    """The record key of an invalid item, if it can be read; all other fields are ignored."""

    # A float, because parsing an integer with thousands of digits is slow.
    number: float | None = field(name=KEY_FIELD, default=None)

    @property
    def key(self) -> int | None:
        """The record key, None without one. Whole numbers are integers however they are written."""
        if self.number is None or not self.number.is_integer() or abs(self.number) > 2**53:
            return None
        return int(self.number)


class Outcome(Struct, gc=False, frozen=True):
    """The status and message of one item.

    ``key`` is the record key, None if it could not be read. ``status`` and ``body`` are those
    of the table in contract section 1, "Response: 207".
    """

    key: int | None
    status: int
    body: str


def shorten_message(message: str) -> str:
    """Cut a message to the length that an outcome can have."""
    return (
        message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"
    )


class KeyValuePair(Struct):
    """The name and the value of a key field; null if the item's record key could not be read."""

    key: str
    value: str | None


class MultiCodeResponse(Struct):
    """The outcome of one item."""

    id: list[KeyValuePair]
    status: int
    body: str
    index: Annotated[
        int | UnsetType,
        Meta(description="The item's place in the request, from 0. Only with `return=minimal`."),
    ] = UNSET


class ProblemDetails(Struct):
    """The problem that made a whole request fail (RFC 9457). `type` links to the contract."""

    type: str
    title: str
    status: int
    detail: str
    instance: str


def make_problem_type(status: int) -> str:
    """Return the ``type`` of all problems with this status."""
    return f"{CONTRACT_PATH}#{status}"


class Debug(Struct):
    """The activityID that identifies the request in the service's log, and item counts."""

    activity_id: str = field(name="activityID")
    created: Annotated[
        int | UnsetType, Meta(description="Number of created items. Only with `return=minimal`.")
    ] = UNSET
    updated: Annotated[
        int | UnsetType, Meta(description="Number of updated items. Only with `return=minimal`.")
    ] = UNSET
    failed: Annotated[
        int | UnsetType, Meta(description="Number of failed items. Only with `return=minimal`.")
    ] = UNSET


class Pagination(Struct, rename="pascal"):
    """The header ``x-pagination`` of a page of records."""

    total_count: int
    total_pages: int
    current_page: int
    page_size: int


class RecordEnvelope(Struct):
    """The body of a response about one record."""

    data: Item | None
    error: ProblemDetails | None
    debug: Debug


class RecordListEnvelope(Struct):
    """The body of a response with a page of records."""

    data: list[Item] | None
    error: ProblemDetails | None
    debug: Debug


class Envelope(Struct):
    """The body of all other responses; a 207 is streamed in the same form."""

    data: list[MultiCodeResponse] | None
    error: ProblemDetails | None
    debug: Debug


ENVELOPE_START = b'{"data":['
