"""The records that are sent: short ones of 670 bytes, and real ones of the public registry."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple

from service.wire import KEY_FIELD, Item

Shape = Literal["short", "real"]
Record = dict[str, Any]

COLUMNS = tuple(field.name for field in msgspec.structs.fields(Item))
KEY_COLUMN = COLUMNS[0]
REPLACED_COLUMNS = tuple(c for c in COLUMNS[1:] if not c.startswith("entry_"))
"""What an update replaces: entry_date and entry_user stay those of the creation."""

SAMPLE = Path(__file__).parents[2] / "service" / "sample.json"

_SHORT: Record = {
    "careCaseClinicalTrial_Key": 0,
    "careCaseClinicalTrialArm_ID": "ARM-B",
    "careCaseClinicalTrialReason_ID": "TREATMENT",
    "careCaseClinicalTrialStudyPhase_ID": "PHASE3",
    "case_Key": 1,
    "comment": "Seen at the second visit; consent signed, no adverse event.",
    "disease": "Systemic Sclerosis",
    "entry_Date": "2023-06-29T00:00:00Z",
    "entry_User": "registry",
    "inclusionExclusion": "Adults of 18 to 70 years",
    "location": "Chicago",
    "protocol_Number": "NCT05925803",
    "study_Drug": "Anifrolumab",
    "study_Length": "52 weeks",
    "study_Title": "Efficacy and Safety in Systemic Sclerosis",
    "update_Date": "2024-01-02T03:04:05Z",
    "update_User": "registry",
    "website": "clinicaltrials.gov/study/NCT05925803",
}


class Records:
    """Records of one shape; every ``bad_every``-th is bad (0: none, 1: all)."""

    def __init__(self, shape: Shape, *, bad_every: int = 0, bad: Record | None = None) -> None:
        self._shape = shape
        self._bad_every = bad_every
        self._bad = bad or {}
        self._patterns: Sequence[Record] = (
            [_SHORT] if shape == "short" else msgspec.json.decode(SAMPLE.read_bytes())
        )

    def record(self, key: int) -> Record:
        """Return the record of a key."""
        pattern = self._patterns[key % len(self._patterns)]
        record = {**pattern, KEY_FIELD: key, "case_Key": 1 + key % 9_000}
        if self._bad_every and key % self._bad_every == self._bad_every // 2:
            record |= self._bad
        return record

    def body(self, keys: range, key: int | None = None) -> bytes:
        """Return a request body with the records of the keys, or all with one key.

        It has no line break.
        """
        records = [self.record(each) for each in keys]
        if key is not None:
            records = [record | {KEY_FIELD: key} for record in records]
        return msgspec.json.encode(records)

    def rows(self, keys: range) -> Iterator[tuple[Any, ...]]:
        """Return the records as rows, in the order of the columns."""
        for key in keys:
            yield astuple(msgspec.convert(self.record(key), Item))


def upsert_statement(source: str, returning: str = "") -> str:
    """Return the upsert of rows from a source: ``values (…)`` or ``select … from …``."""
    return (
        f"insert into care_case_clinical_trial ({', '.join(COLUMNS)}) {source} "
        f"on conflict ({KEY_COLUMN}) do update set "
        + ", ".join(f"{column} = excluded.{column}" for column in REPLACED_COLUMNS)
        + returning
    )


def upsert_of_one_row() -> str:
    """Return the upsert of one row given by parameters; it tells whether it was created."""
    parameters = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
    return upsert_statement(f"values ({parameters})", " returning (xmax = 0) as created")
