"""Batches: 1 to 3,000 items, whose keys repeat or not, good ones and bad ones of every kind."""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.model.reference import KEY, Item
from tests.model.tables import REWRITTEN_FROM, Feature, Mix, Table

TEXTS = [None, "", "plain", "Müller ☃ \U0001f9ea", "quote's \"", "back\\slash", "\\u0000", "a\tb\n"]

DATES = {
    "2025-01-02T03:04:05Z": "2025-01-02T03:04:05Z",
    "2025-01-02T03:04:05.123456+05:30": "2025-01-01T21:34:05.123456Z",
    "2025-01-02T03:04:05": "2025-01-02T03:04:05Z",
    "2025-01-02 03:04:05 UTC": "2025-01-02T03:04:05Z",
    "2025-01-02 03:04:05 -0500": "2025-01-02T08:04:05Z",
    "2025-01-02": "2025-01-02T00:00:00Z",
    "0001-01-01T00:00:00Z": "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z": "9999-12-31T23:59:59.999999Z",
}
"""Dates on the wire, and what they mean in a form that PostgreSQL reads."""

FREE_FIELDS: dict[str, Callable[[Random], Any]] = {
    **dict.fromkeys(
        [
            *("careCaseClinicalTrialArm_ID", "careCaseClinicalTrialReason_ID"),
            *("careCaseClinicalTrialStudyPhase_ID", "inclusionExclusion", "website"),
            *("comment", "study_Title", "disease", "location"),
        ],
        lambda random: random.choice(TEXTS),
    ),
    "case_Key": lambda random: random.choice([None, 0, 5, -1, 2**31 - 1, -(2**31)]),
    "entry_Date": lambda random: random.choice(list(DATES)),
    "update_Date": lambda random: random.choice(list(DATES)),
    "entry_User": lambda random: random.choice([None, "", "clerk", "x" * 20]),
    "update_User": lambda random: random.choice([None, "", "clerk", "ü" * 20]),
}
"""Values of fields of which the table's features want nothing."""

BAD_FIELDS: dict[str, Sequence[Any]] = {
    "commment": ["a misspelt name"],
    "case_Key": ["5", 1.5, True, 2**31, [1]],
    "comment": [5, {}, "U+0000 \0", "a lone surrogate \ud800"],
    "careCaseClinicalTrialArm_ID": ["x" * 65, 7],
    "entry_User": ["x" * 21],
    "update_User": [False],
    "entry_Date": [None, "yesterday", "2025-02-30T00:00:00Z", 20250102, ""],
    "update_Date": [None, "10000-01-01T00:00:00Z", "2025-01-02T25:00:00Z"],
}
BAD_KEYS = ["12", 1.5, None, True, [], 2**31, -(2**31) - 1]
NO_OBJECTS = [5, "text", None, [], True]

SIZES = [1, 2, 3, 4, 6, 2, 3, 4, 6, 12, 25, 60, 12, 25, 60, 60, 400, 700, 1100]
LARGE_SIZES = [*SIZES, 1600, 3000]


def item(fields: dict[str, Any]) -> Item:
    """Return the valid item of these fields."""
    meaning = {
        name: DATES.get(value, value) if name.endswith("_Date") else value
        for name, value in fields.items()
    }
    return Item(fields, meaning, fields[KEY])


def bad_item(random: Random, fields: dict[str, Any]) -> Item:
    """Return these fields with something wrong, or what is no item at all."""
    kind = random.choice(["field", "field", "field", "key", "no key", "no object"])
    if kind == "no object":
        return Item(random.choice(NO_OBJECTS), None, None)
    if kind == "no key":
        return Item({name: value for name, value in fields.items() if name != KEY}, None, None)
    if kind == "key":
        key = random.choice(BAD_KEYS)
        # An integer that is out of range can be read, and need not be.
        return Item({**fields, KEY: key}, None, ... if type(key) is int else None)
    name = random.choice(list(BAD_FIELDS))
    return Item({**fields, name: random.choice(BAD_FIELDS[name])}, None, fields[KEY])


def _keys(random: Random, size: int) -> Callable[[], int]:
    """Return a source of keys of one of several distributions."""
    first = random.choice([1, 1, 1, -5, 1000, 2**31 - 1 - size])
    last = random.choice([2, 6, 6, 40, size, size])
    ascending = iter(range(first, first + size))
    kind = random.choice(["few", "few", "ascending", "skewed", "wide"])

    def key() -> int:
        if kind == "few":
            return random.randint(1, last) or 1
        if kind == "ascending":
            return next(ascending, 1) or 1
        if kind == "skewed":
            return int(min(random.paretovariate(1), 5000)) or 1
        # Beside those that a trigger draws.
        return random.choice([-1, 1]) * random.randint(2 * REWRITTEN_FROM, 2**31 - 1)

    return key


@st.composite
def batch(draw: st.DrawFn, table: Table, size: int) -> list[Item]:
    """Return a batch that meets the table's features."""
    random = draw(st.randoms(use_true_random=size > 20))
    share_of_key_0 = random.choice([0, 0, 0.1, 0.5, 1])
    if any(feature.depends_on_keys for feature in table.features):
        share_of_key_0 = 0
    elif any(feature.is_met_by_key_0 for feature in table.features):
        share_of_key_0 = share_of_key_0 or 0.5
    share_of_bad = random.choice([0, 0, 0, 0.1 if size < 50 else 0.005])
    keys = _keys(random, size)
    keys_first = random.random() < 0.2  # key 0 before all others, or anywhere
    mix = Mix(random, size, keys)
    free = random.sample(list(FREE_FIELDS), random.randint(0, 4))
    met: Counter[Feature] = Counter()
    items: list[Item] = []
    for number in range(size):
        is_new = random.random() < share_of_key_0
        if keys_first and share_of_key_0 < 1:
            is_new = number < size * share_of_key_0
        fields: dict[str, Any] = {KEY: 0 if is_new else keys(), "comment": f"item {number}"}
        for name in free:
            if random.random() < 0.5:
                fields[name] = FREE_FIELDS[name](random)
        for feature in table.features:
            if met[feature] != feature.met_at_most:
                fields |= {name: value(mix) for name, value in feature.fields.items()}
                met[feature] += any(fields[name] is not None for name in feature.fields)
        if random.random() < share_of_bad:
            items.append(bad_item(random, fields))
        else:
            items.append(item(fields))
    return items


@st.composite
def batches(draw: st.DrawFn, table: Table, most: int) -> list[list[Item]]:
    """Return one to three batches to be sent one after the other; some are sent again."""
    # What counts rows for every row costs the square of the size.
    sizes = SIZES if table.features else LARGE_SIZES
    size = min(draw(st.sampled_from(sizes)), most)
    made = [draw(batch(table, size))]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        again = draw(st.booleans())
        made.append(made[-1] if again else draw(batch(table, draw(st.integers(1, 6)))))
    return made
