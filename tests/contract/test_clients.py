"""Clients that were generated from the document, and a tool that looks for breaches of it."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.config import Server
from service.http import openapi
from tests.support.running import MakeService, StartProcess
from tests.support.service import API_KEY, KEY, ServiceUnderTest, token

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent

PYTHON_PROGRAM = """
import sys
import trials_client as client

url, key, bearer = sys.argv[1:]
settings = client.Configuration(host=url, api_key={"apiKeyAuth": key}, access_token=bearer)
with client.ApiClient(settings) as connection:
    api = client.CareCaseClinicalTrialsApi(connection)
    trial = client.CareCaseClinicalTrial(
        careCaseClinicalTrial_Key=17, study_Title="Étude", entry_Date="2025-01-02T03:04:05Z"
    )
    answer = api.update_batch_care_case_clinical_trial("acme", [trial, trial])
    print([(o.id[0].value, o.status, o.body) for o in answer.data], answer.debug.activity_id)
    try:
        api.update_batch_care_case_clinical_trial("nowhere", [trial])
    except client.ApiException as error:
        print(error.status, error.data.error.detail)

    trial.study_title = "one"
    trial.care_case_clinical_trial_key = 18

    def refused(call, *arguments):
        try:
            call(*arguments)
        except client.ApiException as error:
            return error.status, error.data.error.detail

    print(api.create_care_case_clinical_trial("acme", trial).data.study_title)
    print(refused(api.create_care_case_clinical_trial, "acme", trial))
    print(api.get_care_case_clinical_trial("acme", 18).data.entry_date.isoformat())
    page = api.list_care_case_clinical_trial_with_http_info(
        "acme", page=1, page_size=1, sort_by="careCaseClinicalTrial_Key:desc"
    )
    print([each.care_case_clinical_trial_key for each in page.data.data], end=" ")
    print(page.headers["x-pagination"])
    trial.study_title = "two"
    print(api.update_care_case_clinical_trial("acme", 18, trial).data.study_title)
    trial.care_case_clinical_trial_key = 99
    print(refused(api.update_care_case_clinical_trial, "acme", 99, trial))
    print(api.delete_care_case_clinical_trial("acme", 18))
    print(refused(api.get_care_case_clinical_trial, "acme", 18))
    trial.website = "taken"
    print(refused(api.create_care_case_clinical_trial, "acme", trial))
"""

TYPESCRIPT_PROGRAM = """
import { CareCaseClinicalTrialsApi, Configuration } from "./index";

const [url, key, bearer] = process.argv.slice(2);
const api = new CareCaseClinicalTrialsApi(
  new Configuration({ basePath: url, apiKey: () => key!, accessToken: () => bearer! }),
);
const trial = { careCaseClinicalTrialKey: 17, studyTitle: "Étude", entryDate: new Date() };
api
  .updateBatchCareCaseClinicalTrial({
    vbasoftwareDatabase: "acme",
    careCaseClinicalTrial: [trial, trial],
  })
  .then((answer) => {
    for (const outcome of answer.data!) {
      const value: string | null | undefined = outcome.id[0]!.value;
      console.log(value, outcome.status, outcome.body);
    }
  })
  .then(oneRecord);

const vbasoftwareDatabase = "acme";
const refused = (call: Promise<unknown>) =>
  call.then(
    () => console.log("not refused"),
    async (error) => {
      const answer = await (error.response as Response).json();
      console.log(error.response.status, answer.error.detail);
    },
  );

async function oneRecord() {
  const one = { ...trial, careCaseClinicalTrialKey: 18, studyTitle: "one" };
  const send = { vbasoftwareDatabase, careCaseClinicalTrial: one };
  const created = await api.createCareCaseClinicalTrial(send);
  console.log(created.data!.studyTitle);
  await refused(api.createCareCaseClinicalTrial(send));
  const read = await api.getCareCaseClinicalTrial({ vbasoftwareDatabase, key: 18 });
  console.log(read.data!.entryDate instanceof Date);
  const sortBy = "careCaseClinicalTrial_Key:desc";
  const page = await api.listCareCaseClinicalTrialRaw({
    vbasoftwareDatabase, page: 1, pageSize: 1, sortBy,
  });
  const keys = (await page.value()).data!.map((each) => each.careCaseClinicalTrialKey);
  console.log(keys, page.raw.headers.get("x-pagination"));
  const two = { ...one, studyTitle: "two" };
  const updated = await api.updateCareCaseClinicalTrial({
    vbasoftwareDatabase, key: 18, careCaseClinicalTrial: two,
  });
  console.log(updated.data!.studyTitle);
  const absent = { ...two, careCaseClinicalTrialKey: 99 };
  await refused(
    api.updateCareCaseClinicalTrial({
      vbasoftwareDatabase, key: 99, careCaseClinicalTrial: absent,
    }),
  );
  console.log(await api.deleteCareCaseClinicalTrial({ vbasoftwareDatabase, key: 18 }));
  await refused(api.getCareCaseClinicalTrial({ vbasoftwareDatabase, key: 18 }));
  const taken = { ...absent, website: "taken" };
  await refused(
    api.createCareCaseClinicalTrial({ vbasoftwareDatabase, careCaseClinicalTrial: taken }),
  );
}
"""

RUBY_PROGRAM = """
require "trials_client"

url, key, bearer = ARGV
settings = TrialsClient::Configuration.new do |settings|
  settings.scheme, settings.host = url.split("://")
  settings.server_index = nil
  settings.api_key["x-api-key"] = key
  settings.access_token = bearer
end
api = TrialsClient::CareCaseClinicalTrialsApi.new(TrialsClient::ApiClient.new(settings))
trial = TrialsClient::CareCaseClinicalTrial.new(
  care_case_clinical_trial_key: 17, study_title: "Étude", entry_date: Time.now
)
answer = api.update_batch_care_case_clinical_trial("acme", [trial, trial])
answer.data.each { |outcome| puts [outcome.id[0].value, outcome.status, outcome.body].join(" ") }
begin
  api.update_batch_care_case_clinical_trial("nowhere", [trial])
rescue TrialsClient::ApiError => error
  puts "#{error.code} #{JSON.parse(error.response_body)["error"]["detail"]}"
end

def refused
  yield
  puts "not refused"
rescue TrialsClient::ApiError => error
  puts "#{error.code} #{JSON.parse(error.response_body)["error"]["detail"]}"
end

trial.care_case_clinical_trial_key = 18
trial.study_title = "one"
puts api.create_care_case_clinical_trial("acme", trial).data.study_title
refused { api.create_care_case_clinical_trial("acme", trial) }
puts api.get_care_case_clinical_trial("acme", 18).data.entry_date.class
page, _, headers = api.list_care_case_clinical_trial_with_http_info(
  "acme", page: 1, page_size: 1, sort_by: "careCaseClinicalTrial_Key:desc"
)
puts "#{page.data.map(&:care_case_clinical_trial_key)} #{headers["x-pagination"]}"
trial.study_title = "two"
puts api.update_care_case_clinical_trial("acme", 18, trial).data.study_title
trial.care_case_clinical_trial_key = 99
refused { api.update_care_case_clinical_trial("acme", 99, trial) }
puts api.delete_care_case_clinical_trial("acme", 18).inspect
refused { api.get_care_case_clinical_trial("acme", 18) }
trial.website = "taken"
refused { api.create_care_case_clinical_trial("acme", trial) }
"""

EXISTS = "A record with this key already exists."
ABSENT = "No record has this key."
PAGINATION = '{"TotalCount":2,"TotalPages":2,"CurrentPage":1,"PageSize":1}'

# A record with this website is refused, whatever its key.
TAKEN = """
    alter table care_case_clinical_trial add constraint website_is_free check (website <> 'taken')
"""
ALL = ["batch", "read", "write", "delete"]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture
def generate(tmp_path: Path) -> Callable[..., Path]:
    """Generates a client of a language; returns its folder."""
    if shutil.which("java") is None:
        pytest.skip("the generator needs Java")

    def generate(language: str, *options: str) -> Path:
        document = tmp_path / "openapi.json"
        document.write_text(json.dumps(openapi.make_document(Server())))
        folder = tmp_path / language
        generator = BIN / "openapi-generator-cli"
        run(generator, "generate", "-g", language, "-i", document, "-o", folder, *options)
        return folder

    return generate


async def test_a_generated_python_client_sends_a_batch_and_single_records(
    make_service: MakeService, generate: Callable[..., Path]
) -> None:
    service = await make_service(allow=ALL)
    await service.execute(TAKEN)
    folder = generate("python", "--additional-properties=packageName=trials_client")
    program = folder / "program.py"
    program.write_text(PYTHON_PROGRAM)

    printed = await asyncio.to_thread(run, sys.executable, program, service.url, API_KEY, token())

    assert "[('17', 201, 'Created'), ('17', 200, 'Updated')]" in printed
    assert "403 This database does not exist, or you do not have access to it." in printed
    *_, last = steps = printed.splitlines()[2:]
    assert steps[:-1] == [
        "one",
        f"(409, '{EXISTS}')",
        steps[2],
        f"[18] {PAGINATION}",
        "two",
        f"(404, '{ABSENT}')",
        "None",
        f"(404, '{ABSENT}')",
    ]
    assert steps[2] == "2025-01-02T03:04:05+00:00"
    assert last.startswith("(400, ")
    assert "website_is_free" in last
    (row,) = await service.fetch("select study_title from care_case_clinical_trial")
    assert row["study_title"] == "Étude"


async def test_a_generated_typescript_client_sends_a_batch_and_single_records(
    make_service: MakeService, generate: Callable[..., Path]
) -> None:
    if shutil.which("npm") is None:
        pytest.skip("TypeScript's compiler comes by npm")
    service = await make_service(allow=ALL)
    await service.execute(TAKEN)
    folder = generate("typescript-fetch")
    install = ["npm", "install", "--no-audit", "--no-fund", "typescript@5", "@types/node@22"]
    if subprocess.run(install, cwd=folder, capture_output=True, check=False).returncode != 0:
        pytest.skip("no npm registry can be reached")
    (folder / "program.ts").write_text(TYPESCRIPT_PROGRAM)
    compile_strictly = ["node_modules/.bin/tsc", "--strict"]
    options = ["--target", "es2022", "--module", "commonjs", "--lib", "es2022,dom"]
    await asyncio.to_thread(run, *compile_strictly, *options, "program.ts", cwd=folder)

    printed = await asyncio.to_thread(
        run, "node", folder / "program.js", service.url, API_KEY, token()
    )

    *steps, last = printed.splitlines()
    assert steps == [
        "17 201 Created",
        "17 200 Updated",
        "one",
        f"409 {EXISTS}",
        "true",
        f"[ 18 ] {PAGINATION}",
        "two",
        f"404 {ABSENT}",
        "undefined",
        f"404 {ABSENT}",
    ]
    assert last.startswith("400 ")
    assert "website_is_free" in last


async def test_a_generated_ruby_client_sends_a_batch_and_single_records(
    make_service: MakeService, generate: Callable[..., Path]
) -> None:
    if not (
        shutil.which("ruby")
        and run("ruby", "-e", "begin; require 'typhoeus'; puts 1; rescue LoadError; end")
    ):
        pytest.skip("the generated client needs Ruby and its typhoeus")
    service = await make_service(allow=ALL)
    await service.execute(TAKEN)
    folder = generate("ruby", "--additional-properties=gemName=trials_client")
    program = folder / "program.rb"
    program.write_text(RUBY_PROGRAM)

    printed = await asyncio.to_thread(
        run, "ruby", "-I", folder / "lib", program, service.url, API_KEY, token()
    )

    *steps, last = printed.splitlines()
    assert steps == [
        "17 201 Created",
        "17 200 Updated",
        "403 This database does not exist, or you do not have access to it.",
        "one",
        f"409 {EXISTS}",
        "Time",
        f"[18] {PAGINATION}",
        "two",
        f"404 {ABSENT}",
        "nil",
        f"404 {ABSENT}",
    ]
    assert last.startswith("400 ")
    assert "website_is_free" in last
    (row,) = await service.fetch("select study_title from care_case_clinical_trial")
    assert row["study_title"] == "Étude"


SCHEMATHESIS = """
# Items fail each for themselves, inside a 207.
[checks.negative_data_rejection]
expected-statuses = [207, 400, 403, 404, 409, 413, 415, 422]

# Two bodies under one Idempotency-Key, each right by itself, are 422.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429, "5xx"]

# A text with U+0000 is one for JSON Schema, not for PostgreSQL; here it fails the request.
[[operations]]
include-operation-id = "CreateCareCaseClinicalTrial"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 409, 422]

# The key in the path and that in the body have to be the same.
[[operations]]
include-operation-id = "UpdateCareCaseClinicalTrial"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404]
"""


async def test_schemathesis_finds_no_breach_of_the_document(
    start_process: StartProcess, tmp_path: Path
) -> None:
    service: ServiceUnderTest
    service, _ = await start_process(allow=ALL)
    config = tmp_path / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)

    await asyncio.to_thread(
        run,
        *(BIN / "schemathesis", "--config-file", config, "run", f"{service.url}/openapi.json"),
        *("--header", f"x-api-key: {API_KEY}"),
        *("--header", f"Authorization: Bearer {token()}"),
        *("--header", "vbasoftware-database: acme"),
        *("--max-examples", os.environ.get("SCHEMATHESIS_EXAMPLES", "50"), "--continue-on-failure"),
        cwd=tmp_path,
    )

    assert (await service.put([{KEY: 1}])).statuses in ([200], [201])
