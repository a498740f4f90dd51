"""The envelope that is put together from fragments is the one that the structs describe."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.http.envelope import encode_envelope_end, encode_outcomes
from service.wire import (
    ENVELOPE_START,
    KEY_FIELD,
    Debug,
    Envelope,
    KeyValuePair,
    MultiCodeResponse,
    Outcome,
)

keys = st.none() | st.integers(-(2**31), 2**31 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
outcomes = (
    st.builds(Outcome, keys, st.sampled_from([400, 403, 409, 500, 503]), texts)
    | st.builds(Outcome, keys.filter(lambda key: key is not None), st.just(200), st.just("Updated"))
    | st.builds(Outcome, keys.filter(lambda key: key is not None), st.just(201), st.just("Created"))
)


@given(st.lists(outcomes, max_size=5), texts)
def test_an_envelope_of_fragments_is_that_of_the_structs(
    told: list[Outcome], activity_id: str
) -> None:
    data = [
        MultiCodeResponse(
            [KeyValuePair(KEY_FIELD, None if outcome.key is None else str(outcome.key))],
            outcome.status,
            outcome.body,
        )
        for outcome in told
    ]

    written = ENVELOPE_START + encode_outcomes(told) + encode_envelope_end(Debug(activity_id))

    assert written == msgspec.json.encode(Envelope(data, None, Debug(activity_id)))
