"""Contract section 4: ``/openapi.json``, ``openapi`` and ``/docs``, as their users use them."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import (
    alert_is_present,
    presence_of_element_located,
    text_to_be_present_in_element,
)
from selenium.webdriver.support.wait import WebDriverWait

from service.config import Server
from service.engine import sqlstates
from service.http import openapi
from service.wire import Item
from tests.support.running import MakeService
from tests.support.service import API_KEY, KEY, PATH, RECORDS, token

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


def test_the_document_is_valid_and_printed_as_it_is_served() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "service", "openapi"],
        capture_output=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "SERVICE_CONFIG"},
    )
    document = json.loads(printed.stdout)

    OpenAPIV31SpecValidator(document).validate()
    assert document == openapi.make_document(Server())
    assert document["openapi"].startswith("3.1")


def test_the_document_names_everything_as_the_public_api_does() -> None:
    document = openapi.make_document(Server(base_path="/vbasoftware", max_batch_items=7))
    operation = document["paths"][PATH]["put"]

    assert document["servers"] == [{"url": "/vbasoftware"}]
    assert operation["operationId"] == "UpdateBatchCareCaseClinicalTrial"
    assert operation["tags"] == ["Care Case Clinical Trials"]
    assert operation["security"] == [{"apiKeyAuth": [], "bearerAuth": []}]
    assert set(document["components"]["schemas"]) == {
        "CareCaseClinicalTrial",
        "CareCaseClinicalTrialListVBAResponse",
        "CareCaseClinicalTrialVBAResponse",
        "Debug",
        "KeyValuePair",
        "MultiCodeResponse",
        "MultiCodeResponseListVBAResponse",
        "VBAProblemDetails",
    }
    assert set(operation["responses"]) == {
        *("207", "400", "401", "403", "409", "413", "415", "422", "429", "500", "503")
    }
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    body = operation["requestBody"]["content"]["application/json"]
    assert body["schema"]["maxItems"] == 7
    assert list(operation["requestBody"]["content"]) == ["application/json"]
    assert list(body["examples"]) == ["created", "key-0", "rejected"]
    assert len(msgspec.convert(body["examples"]["created"]["value"], list[Item])) == 1


def operations() -> dict[str, dict[str, Any]]:
    """Return the operations of the document by their ids."""
    paths = openapi.make_document(Server())["paths"]
    return {each["operationId"]: each for path in paths.values() for each in path.values()}


def test_the_operations_on_one_record_are_named_as_the_public_api_names_them() -> None:
    paths = openapi.make_document(Server())["paths"]
    found = operations()

    assert {
        f"{method} {path}": operation["operationId"]
        for path, methods in paths.items()
        for method, operation in methods.items()
    } == {
        f"put {PATH}": "UpdateBatchCareCaseClinicalTrial",
        f"get {RECORDS}": "ListCareCaseClinicalTrial",
        f"post {RECORDS}": "CreateCareCaseClinicalTrial",
        f"get {RECORDS}/{{key}}": "GetCareCaseClinicalTrial",
        f"put {RECORDS}/{{key}}": "UpdateCareCaseClinicalTrial",
        f"delete {RECORDS}/{{key}}": "DeleteCareCaseClinicalTrial",
    }
    assert {name: next(iter(each["responses"])) for name, each in found.items()} == {
        "UpdateBatchCareCaseClinicalTrial": "207",
        "ListCareCaseClinicalTrial": "200",
        "CreateCareCaseClinicalTrial": "201",
        "GetCareCaseClinicalTrial": "200",
        "UpdateCareCaseClinicalTrial": "200",
        "DeleteCareCaseClinicalTrial": "204",
    }
    for name, operation in found.items():
        assert operation["security"] == [{"apiKeyAuth": [], "bearerAuth": []}], name
        assert "vbasoftware-database" in [each["name"] for each in operation["parameters"]]
    assert "x-pagination" in found["ListCareCaseClinicalTrial"]["responses"]["200"]["headers"]
    assert "Location" in found["CreateCareCaseClinicalTrial"]["responses"]["201"]["headers"]


async def test_the_examples_of_one_record_are_what_the_service_says(
    make_service: MakeService,
) -> None:
    found = operations()
    service = await make_service(allow=["read", "write"])
    body = found["CreateCareCaseClinicalTrial"]["requestBody"]["content"]["application/json"]
    record = body["examples"]["record"]["value"]
    key = record[KEY]

    def shown(name: str, status: int) -> Any:
        content = found[name]["responses"][str(status)]["content"]["application/json"]
        (example,) = content["examples"].values()
        return example["value"]

    def general(envelope: Any) -> Any:
        """Return an envelope without what differs from one request to the next."""
        if envelope["error"]:
            envelope["error"] |= {"detail": "", "instance": ""}
        return envelope | {"debug": {}}

    for name, method, path, sent, status in [
        ("GetCareCaseClinicalTrial", "GET", f"/{key}", None, 404),
        ("CreateCareCaseClinicalTrial", "POST", "", record, 201),
        ("CreateCareCaseClinicalTrial", "POST", "", record, 409),
        ("CreateCareCaseClinicalTrial", "POST", "", record | {"update_User": "x" * 21}, 400),
        ("GetCareCaseClinicalTrial", "GET", f"/{key}", None, 200),
        ("ListCareCaseClinicalTrial", "GET", "?sortBy=case_Key", None, 200),
        ("UpdateCareCaseClinicalTrial", "PUT", f"/{key}", record, 200),
    ]:
        answer = await service.ask(method, path, sent)

        assert answer.status == status
        assert general(answer.envelope) == general(shown(name, status))


def test_every_field_has_its_limit_and_a_description() -> None:
    schemas = openapi.make_document(Server())["components"]["schemas"]
    fields = schemas["CareCaseClinicalTrial"]["properties"]

    assert list(fields) == list(Item.__struct_encode_fields__)
    assert all(field["description"] for field in fields.values())
    assert fields["careCaseClinicalTrialArm_ID"]["maxLength"] == 64
    assert fields["update_User"]["maxLength"] == 20
    assert fields["case_Key"]["maximum"] == 2**31 - 1
    assert fields["case_Key"]["type"] == ["integer", "null"]
    assert fields["entry_Date"]["format"] == "date-time"
    assert schemas["CareCaseClinicalTrial"]["additionalProperties"] is False
    lenient = openapi.make_document(Server(ignore_unknown_fields=True))["components"]["schemas"]
    assert "additionalProperties" not in lenient["CareCaseClinicalTrial"]


async def test_the_type_of_every_problem_leads_to_a_row_of_the_contract(
    make_service: MakeService,
) -> None:
    service = await make_service()
    statuses = [*openapi.make_document(Server())["paths"][PATH]["put"]["responses"], "404", "405"]
    statuses.remove("207")
    answer = await service.put([], path="/elsewhere")

    place, _, row = answer.envelope["error"]["type"].partition("#")
    async with service.session.get(service.url + place) as response:
        contract = await response.text()

    assert row == "404"
    for status in statuses:
        assert f'<a id="{status}"></a>{status} |' in contract
    assert openapi.make_document(Server())["externalDocs"]["url"] == place.lstrip("/")


async def test_the_examples_of_batches_get_the_outcomes_that_are_shown(
    make_service: MakeService,
) -> None:
    service = await make_service()
    operation = openapi.make_document(Server())["paths"][PATH]["put"]
    batches = operation["requestBody"]["content"]["application/json"]["examples"]
    content = operation["responses"]["207"]["content"]
    outcomes = content["application/json"]["examples"]

    assert content["text/plain"] == content["application/json"] == content["text/json"]
    assert batches.keys() == outcomes.keys()
    for name, batch in batches.items():
        answer = await service.put(batch["value"])
        shown = outcomes[name]["value"]["data"]
        if name == "key-0":
            shown[0]["id"][0]["value"] = str(answer.keys[0])
        assert answer.envelope["data"] == shown


def test_the_statuses_of_an_item_are_an_enumeration() -> None:
    schemas = openapi.make_document(Server())["components"]["schemas"]
    told = {entry.status for entry in (*sqlstates.BY_CODE.values(), *sqlstates.BY_CLASS.values())}

    enumerated = schemas["MultiCodeResponse"]["properties"]["status"]["enum"]

    assert enumerated == [200, 201, 400, 403, 409, 422, 500, 503]
    assert told <= {*enumerated}


def test_every_field_has_an_example_that_is_valid() -> None:
    fields = openapi.make_document(Server())["components"]["schemas"]["CareCaseClinicalTrial"]
    record = {name: field["examples"][0] for name, field in fields["properties"].items()}

    assert msgspec.convert(record, Item).care_case_clinical_trial_arm_id
    assert all(value is not None for value in record.values())


async def test_the_document_and_the_page_need_no_credentials_and_load_nothing_from_elsewhere(
    make_service: MakeService,
) -> None:
    service = await make_service()

    async with service.session.get(f"{service.url}/openapi.json") as response:
        assert await response.json() == openapi.make_document(Server())
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    async with service.session.get(f"{service.url}/") as response:
        assert response.url.path == "/docs"
        page = await response.text()
        assert response.headers["Content-Type"] == "text/html"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "//" not in page.replace("<!doctype", "")
    for name, media_type in {
        "contract.md": "text/plain; charset=utf-8",
        "swagger-ui.css": "text/css",
        "swagger-ui-bundle.js": "javascript",
        "page.js": "javascript",
    }.items():
        assert name == "contract.md" or f"docs/{name}" in page
        async with service.session.get(f"{service.url}/docs/{name}") as response:
            assert response.status == 200
            assert media_type in response.headers["Content-Type"]


@pytest.mark.parametrize(
    "path",
    [
        *("/openapi.json", "/docs", "/docs/page.js", "/docs/contract.md"),
        *("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"),
    ],
)
async def test_a_document_that_the_client_has_is_not_sent(
    make_service: MakeService, path: str
) -> None:
    service = await make_service()

    async def get(known: str, method: str = "GET") -> tuple[int, bytes, Mapping[str, str]]:
        headers = {"If-None-Match": known} if known else {}
        url = service.url + path
        async with service.session.request(method, url, headers=headers) as response:
            return response.status, await response.read(), response.headers

    status, body, headers = await get("")
    etag = headers["ETag"]
    assert status == 200
    assert body
    assert re.fullmatch('"[0-9a-f]+"', etag)
    assert headers["Cache-Control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        status, nothing, repeated = await get(known)
        assert (status, nothing) == (304, b"")
        assert (repeated["ETag"], repeated["Cache-Control"]) == (etag, "no-cache")
    for other in ('"x"', etag.strip('"'), f'"x{etag[1:]}'):
        assert (await get(other))[:2] == (200, body)
    head = await get("", "HEAD")
    assert head[:2] == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length"):
        assert head[2][name] == headers[name]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium."""
    if BROWSER is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--disable-quic", "--window-size=1200,1000"),
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def execute(browser: webdriver.Chrome) -> tuple[str, str]:
    """Press "Execute" on the page; return the status and the body that it shows."""
    wait = WebDriverWait(browser, 20)
    # The credentials are filled in after the page is drawn, which draws it once more.
    wait.until(presence_of_element_located((By.CSS_SELECTOR, ".authorize.locked")))
    live = (By.CSS_SELECTOR, ".live-responses-table tr.response td.response-col_status")

    def press(_: webdriver.Chrome) -> bool:
        browser.find_element(By.CSS_SELECTOR, "button.execute").click()
        try:
            return bool(WebDriverWait(browser, 2).until(text_to_be_present_in_element(live, "2")))
        except TimeoutException:
            return False

    wait.until(press)
    status = browser.find_element(*live).text
    body = browser.find_element(By.CSS_SELECTOR, ".live-responses-table .highlight-code").text
    return status, body


IS_IN_VIEW = """
const box = document.querySelector(".live-responses-table tr.response").getBoundingClientRect();
return box.top >= 0 && box.top < innerHeight - 200;
"""


@pytest.mark.slow
async def test_the_page_sends_its_example_and_shows_the_answer_also_after_a_reload(
    make_service: MakeService, browser: webdriver.Chrome
) -> None:
    service = await make_service()

    def look() -> list[tuple[str, str]]:
        browser.get(f"{service.url}/docs#key={API_KEY}&token={token()}&database=acme")
        first = execute(browser)
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(IS_IN_VIEW))
        if picture := os.environ.get("DOCS_PICTURE"):
            # With what was sent above it; for the README.
            browser.set_window_size(1000, 1500)
            operation = browser.find_element(By.CSS_SELECTOR, ".opblock-section-request-body")
            browser.execute_script("arguments[0].scrollIntoView()", operation)
            browser.save_screenshot(picture)
            browser.set_window_size(1200, 1000)
        browser.refresh()
        return [first, execute(browser)]

    (status, body), (status_again, body_again) = await asyncio.to_thread(look)

    assert status.startswith("207")
    assert '"Created"' in body
    assert status_again.startswith("207")
    assert '"Updated"' in body_again
    document = openapi.make_document(Server())
    content = document["paths"][PATH]["put"]["requestBody"]["content"]
    example = content["application/json"]["examples"]["created"]["value"]
    assert list(await service.comments()) == [example[0][KEY]]
    complaints = [line["message"] for line in browser.get_log("browser")]  # type: ignore[no-untyped-call]
    assert complaints == []
    assert API_KEY not in browser.current_url


STORED = "return ['key', 'token', 'database', 'other'].map((name) => sessionStorage.getItem(name))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stored", "link", "accepted", "expected"),
    [
        ("", "key=a&token=b&database=c", None, ["a", "b", "c"]),
        ("key=a&token=b", "key=a&token=b", None, ["a", "b", None]),
        ("key=a&token=b", "", None, ["a", "b", None]),
        ("key=a&token=b", "key=x&token=y&database=z", False, ["a", "b", None]),
        ("key=a&token=b", "key=x&token=y&database=z", True, ["x", "y", "z"]),
        ("key=a&token=b", "token=y", False, ["a", "b", None]),
        ("key=a&token=b", "database=z", False, ["a", "b", None]),
        ("key=a", "token=y", False, ["a", None, None]),
        ("database=c", "key=x", False, [None, None, "c"]),
        ("key=a", "key=&key=x", None, ["a", None, None]),
        ("", "other=x&key=a", None, ["a", None, None]),
    ],
)
async def test_a_link_replaces_stored_credentials_only_after_a_question(
    make_service: MakeService,
    browser: webdriver.Chrome,
    stored: str,
    link: str,
    accepted: bool | None,
    expected: list[str | None],
) -> None:
    service = await make_service()

    def follow() -> list[str | None]:
        for fragment in (stored, link):
            browser.get("about:blank")
            browser.get(f"{service.url}/docs#{fragment}")
        if accepted is not None:
            question = WebDriverWait(browser, 10).until(alert_is_present())
            question.accept() if accepted else question.dismiss()
        WebDriverWait(browser, 10).until(presence_of_element_located((By.ID, "page")))
        found: list[str | None] = browser.execute_script(STORED)
        return found

    assert await asyncio.to_thread(follow) == [*expected, None]
    assert browser.current_url == f"{service.url}/docs"
