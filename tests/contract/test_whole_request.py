"""Contract section 1, "Request" and "Whole-request errors".

Credentials and malformed HTTP are in ``tests/security``.
"""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from tests.support.running import MakeService
from tests.support.service import API_KEY, KEY, PATH, SECRET, token

BATCH = [{KEY: 1, "comment": "first"}]


@pytest.mark.parametrize("database", ["", None, "acme\nacme", "acme\n"])
async def test_a_missing_or_repeated_database_header_is_400(
    make_service: MakeService, database: str | None
) -> None:
    service = await make_service()

    answer = await service.put(BATCH, headers={"vbasoftware-database": database})

    assert answer.status == 400
    assert "vbasoftware-database" in answer.detail
    assert await service.comments() == {}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/json",
        "application/merge-patch+json",
        "application/json; charset=utf-8",
        'application/json; charset="UTF-8"',
        "Application/JSON",
    ],
)
async def test_json_media_types_are_accepted(make_service: MakeService, content_type: str) -> None:
    service = await make_service()

    answer = await service.put(BATCH, headers={"Content-Type": content_type})

    assert answer.statuses == [201]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": None},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "json"},
        {"Content-Type": "application/json; charset=iso-8859-1"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Encoding": "br"},
        {"Content-Encoding": "zstd"},
        {"Content-Encoding": "gzip, gzip"},
        {"Content-Encoding": "nonsense"},
    ],
    ids=str,
)
async def test_other_media_types_charsets_and_encodings_are_415(
    make_service: MakeService, headers: dict[str, str | None]
) -> None:
    service = await make_service()

    answer = await service.put(BATCH, headers=headers)

    assert answer.status == 415
    assert "Expected" in answer.detail


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    ],
    ids=["gzip", "x-gzip", "upper case", "zlib", "raw deflate", "identity", "two members"],
)
async def test_compressed_bodies_are_decompressed(
    make_service: MakeService, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    service = await make_service()

    answer = await service.put(
        encode(json.dumps(BATCH).encode()), headers={"Content-Encoding": encoding}
    )

    assert answer.statuses == [201]
    assert await service.comments() == {1: "first"}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(b"[]", mtime=0)[:-3]),
        ("gzip", gzip.compress(b"[]", mtime=0) + b"rubbish"),
        ("gzip", gzip.compress(b"[]", mtime=0)[:12] + b"\xff" * 12),
        ("deflate", b"\xff\xff\xff"),
        ("deflate", zlib.compress(b"[]") + b"x"),
    ],
)
async def test_a_body_that_does_not_decompress_is_400(
    make_service: MakeService, encoding: str, body: bytes
) -> None:
    service = await make_service()

    answer = await service.put(body, headers={"Content-Encoding": encoding})

    assert answer.status == 400
    assert encoding in answer.detail


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_the_body_limit_counts_bytes_after_decompression(
    make_service: MakeService, encode: Callable[[bytes], bytes]
) -> None:
    service = await make_service(max_body_bytes=1000)
    headers = {"Content-Encoding": "gzip"} if encode is gzip.compress else {}

    fits = await service.put(encode(b"[]".ljust(1000)), headers=headers)
    exceeds = await service.put(encode(b"[]".ljust(1001)), headers=headers)

    assert fits.status == 207
    assert exceeds.status == 413
    assert "1000 bytes" in exceeds.detail


async def test_a_compression_bomb_is_413_and_takes_no_memory(make_service: MakeService) -> None:
    service = await make_service(max_body_bytes=1_000_000)
    bomb = gzip.compress(bytes(100_000_000), 1)

    tracemalloc.start()
    answer = await service.put(bomb, headers={"Content-Encoding": "gzip"})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.status == 413
    assert peak_bytes < 10_000_000
    assert (await service.put(BATCH)).statuses == [201]


async def test_gzip_may_have_many_members_but_not_any_number(make_service: MakeService) -> None:
    service = await make_service()
    headers = {"Content-Encoding": "gzip"}
    body = json.dumps(BATCH).encode()
    empty = gzip.compress(b"", mtime=0)

    each_byte = b"".join(gzip.compress(body[i : i + 1], mtime=0) for i in range(len(body)))
    fits = await service.put(empty * 4_000 + each_byte, headers=headers)
    exceeds = await service.put(empty * 5_000 + each_byte, headers=headers)

    assert fits.statuses == [201]
    assert exceeds.status == 400
    assert "compress it as one" in exceeds.detail


async def test_the_body_limit_counts_compressed_bytes_too(make_service: MakeService) -> None:
    service = await make_service(max_body_bytes=10_000)
    empty = gzip.compress(b"", mtime=0)

    answer = await service.put(
        empty * 501 + gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"}, is_chunked=True
    )

    assert answer.status == 413


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, raw_deflate])
async def test_a_body_that_expands_to_many_pieces_comes_out_whole(
    make_service: MakeService, encode: Callable[[bytes], bytes]
) -> None:
    service = await make_service()
    text = "0123456789" * 100_000

    answer = await service.put(
        encode(json.dumps([{KEY: 1, "comment": text}, {KEY: 2}]).encode()),
        headers={"Content-Encoding": "gzip" if encode is gzip.compress else "deflate"},
    )

    assert answer.statuses == [201, 201]
    assert (await service.comments())[1] == text


async def test_more_items_than_the_limit_are_413_and_none_is_applied(
    make_service: MakeService,
) -> None:
    service = await make_service(max_batch_items=3)

    fits = await service.put([{KEY: key} for key in (1, 2, 3)])
    exceeds = await service.put([{KEY: key} for key in (4, 5, 6, 7)])

    assert fits.statuses == [201, 201, 201]
    assert exceeds.status == 413
    assert "3 items" in exceeds.detail
    assert set(await service.comments()) == {1, 2, 3}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}",
        b"null",
        b'"[]"',
        b"17",
        b"[",
        b"[}",
        b"[]]",
        b"[] []",
        b"[,]",
        b"[{},]",
        b"[{}{}]",
        b"[NaN]",
        b'[{"comment":"\\q"}]',
        b'[{"comment":"line\nbreak"}]',
        b"\xff\xfe[\x00]\x00",
        b"[\xe9]",
        b"[" * 100_000,
        b'[{"comment":' + b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_a_body_that_is_no_json_array_is_400(make_service: MakeService, body: bytes) -> None:
    service = await make_service()

    answer = await service.put(body)

    assert answer.status == 400
    assert "body" in answer.detail or "Expected" in answer.detail
    assert (await service.put(BATCH)).statuses == [201]


@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("at", [0, 1, 2, 9, 700_001, -2, -1])
async def test_a_body_that_is_not_json_is_400_naming_the_byte_after_decompression(
    make_service: MakeService, encode: Callable[[bytes], bytes], at: int
) -> None:
    """The places of all kinds of faults are in tests/items/test_offsets.py."""
    service = await make_service()
    items = [b'{"%b":%d,"comment":"%b"}' % (KEY.encode(), n, b"x" * 500) for n in range(1, 3001)]
    body = b"[" + b",".join(items) + b"]"
    byte = at % len(body)
    item = max(body[1:byte].count(b"},"), 0)
    encoding = {"Content-Encoding": "gzip"} if encode is gzip.compress else {}

    broken = await service.put(encode(body[:byte] + b"\0" + body[byte:]), headers=encoding)
    cut = await service.put(encode(body[:byte]), headers=encoding)

    place = f"at byte {byte} (item {item})." if byte else "at byte 0. Expected a JSON array"
    assert broken.status == cut.status == 400
    assert place in broken.detail
    assert (place if byte else "The body is empty.") in cut.detail
    assert "unexpected end" in cut.detail or not byte
    assert await service.comments() == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("POST", PATH, 405, "POST is not supported here; use PUT."),
        ("GET", "/nowhere", 404, "Nothing is served at this path; check the base path."),
    ],
)
async def test_an_unknown_path_or_method_is_reported_with_the_way_out(
    make_service: MakeService, method: str, path: str, status: int, detail: str
) -> None:
    service = await make_service()

    answer = await service.put(BATCH, method=method, path=path)

    assert (answer.status, answer.detail) == (status, detail)


async def test_a_body_malformed_at_its_end_is_400_and_nothing_is_applied(
    make_service: MakeService,
) -> None:
    service = await make_service()
    batch = json.dumps([{KEY: key, "comment": "x" * 500} for key in range(1, 3001)])

    answer = await service.put(batch[:-1].encode() + b",}")

    assert answer.status == 400
    assert await service.comments() == {}


async def test_a_body_with_byte_order_mark_and_white_space_is_accepted(
    make_service: MakeService,
) -> None:
    service = await make_service()

    answer = await service.put(
        b'\xef\xbb\xbf \r\n[ {"%b" : 1}\t,\n{"%b":2} ] ' % (2 * (KEY.encode(),))
    )

    assert answer.statuses == [201, 201]


async def test_the_checks_run_in_the_order_of_the_contract(make_service: MakeService) -> None:
    service = await make_service(max_body_bytes=10)
    wrong: dict[str, str | None] = {
        "Authorization": None,
        "vbasoftware-database": None,
        "Content-Type": "text/plain",
    }
    body = b"not json, and too long"

    statuses = []
    for header, right in {
        "Authorization": f"Bearer {token()}",
        "vbasoftware-database": "acme",
        "Content-Type": "application/json",
    }.items():
        statuses.append((await service.put(body, headers=wrong)).status)
        wrong[header] = right
    statuses.append((await service.put(body, headers=wrong)).status)
    statuses.append((await service.put(body[:3], headers=wrong)).status)

    assert statuses == [401, 400, 415, 413, 400]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/nowhere", 404),
        ("GET", PATH, 405),
        ("PUT", "/livez", 405),
    ],
)
async def test_other_paths_and_methods_get_the_envelope(
    make_service: MakeService, method: str, path: str, status: int
) -> None:
    service = await make_service()

    answer = await service.put(BATCH, method=method, path=path)

    assert answer.status == status
    assert answer.envelope["error"]["instance"] == path
    assert answer.envelope["debug"]["activityID"]
    assert ("Allow" in answer.headers) == (status == 405)


async def test_the_operation_is_served_below_the_base_path(make_service: MakeService) -> None:
    service = await make_service(base_path="/vbasoftware")

    below = await service.put(BATCH, path="/vbasoftware" + PATH)
    elsewhere = await service.put(BATCH)

    assert below.statuses == [201]
    assert elsewhere.status == 404


async def test_a_client_that_waits_for_100_continue_sends_its_body_only_when_admitted(
    make_service: MakeService,
) -> None:
    service = await make_service()
    head = (
        f"PUT {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: {{key}}\r\n"
        f"Authorization: Bearer {token(SECRET)}\r\nvbasoftware-database: acme\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    )

    admitted = await service.raw(head.format(key=API_KEY).encode(), b"[]")
    refused = await service.raw(head.format(key="wrong").encode(), silent_seconds=0.2)

    assert admitted.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 207 ")
    assert b'{"data":[]' in admitted
    assert refused.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("replaced", "status"),
    [
        (("Content-Length: 2", "Content-Length: 1001"), 413),
        ((PATH, "/nowhere"), 404),
        (("PUT", "POST"), 405),
        (("PUT", "DELETE"), 405),
        (("application/json", "text/html"), 415),
        (("Expect: 100-continue", "Expect: the-unexpected"), 207),
    ],
    ids=str,
)
async def test_a_body_that_will_be_refused_is_not_asked_for(
    make_service: MakeService, replaced: tuple[str, str], status: int
) -> None:
    service = await make_service(max_body_bytes=1000)
    head = service.head(content_length=2).decode().removesuffix("\r\n")
    head += "Expect: 100-continue\r\nConnection: close\r\n\r\n"

    request = head.replace(*replaced, 1).encode() + b"[]" * (status == 207)
    answer = await service.raw(request, silent_seconds=0.2)

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("padding", ["x", '\\"', "},{", "\\ud800", "\u00e9"])
async def test_an_item_beyond_the_limit_is_413_naming_its_place_and_none_is_applied(
    make_service: MakeService, padding: str
) -> None:
    service = await make_service(max_item_bytes=100_000)
    text = padding * (110_000 // len(padding.encode()))
    large = b'{"%b":3,"comment":"%b"}' % (KEY.encode(), text.encode("utf-8"))

    fits = await service.put([{KEY: 1, "comment": "x" * 90_000}, {KEY: 2, "comment": "x" * 90_000}])
    exceeds = await service.put(b'[{"%b":3},{"%b":4},%b]' % (KEY.encode(), KEY.encode(), large))

    assert fits.statuses == [201, 201]
    assert exceeds.status == 413
    assert "Item 2 (counting from 0) exceeds 100000 bytes" in exceeds.detail
    assert set(await service.comments()) == {1, 2}


@pytest.mark.parametrize("count", [1, 1200])
@pytest.mark.parametrize("other", ["1", f'{{"{KEY}":0}}', f'{{"{KEY}":0,"comment":"\\ud800"}}'])
async def test_what_is_nested_as_deep_as_can_be_is_decoded_or_refused_as_a_whole(
    make_service: MakeService, count: int, other: str
) -> None:
    service = await make_service(ignore_unknown_fields=True)
    statuses = set()
    for depth in range(900, 1000, 2):
        nested = f'{{"{KEY}":0,"x":{"[" * depth}{"]" * depth},"comment":"\\u0000"}}'
        answer = await service.put(f"[{'1,' * (count - 1)}{nested},{other}]".encode())
        statuses.add(answer.status)

    assert statuses <= {207, 400}
