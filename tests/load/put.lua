-- The raw rate, with wrk: sends the batches of a file in turns, and prints items/s.
--
--   python -m tests.load.make_body --items 1000 --batches 16 /tmp/batches.json
--   export LOAD_API_KEY=… LOAD_TOKEN=… LOAD_DATABASE=acme LOAD_BODY=/tmp/batches.json
--   wrk --script tests/load/put.lua --threads 1 --connections 4 --duration 15s \
--       http://127.0.0.1:8080/care-case-clinical-trials-batch
--
-- A status other than 207 and a 207 with an item that is neither Created nor Updated are
-- counted and told at the end; the full check of every outcome is locustfile.py's.

local KEY = '"careCaseClinicalTrial_Key"'

-- The next two belong to wrk's own thread, everything else to each of its load threads.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function need(name)
  local value = os.getenv(name)
  if not value or value == "" then
    io.stderr:write(name .. " must be set; see the head of put.lua\n")
    os.exit(2)
  end
  return value
end

local requests, turn = {}, 0
-- Global, so that done() can read them through thread:get().
batches, items, answers, other_statuses, unsound = 0, 0, 0, 0, 0

function init()
  local headers = {
    ["x-api-key"] = need("LOAD_API_KEY"),
    ["Authorization"] = "Bearer " .. need("LOAD_TOKEN"),
    ["vbasoftware-database"] = os.getenv("LOAD_DATABASE") or "acme",
    ["Content-Type"] = "application/json",
    ["Accept"] = "application/json",
  }
  for body in io.lines(need("LOAD_BODY")) do
    local _, count = body:gsub(KEY, "")
    items = items + count
    table.insert(requests, wrk.format("PUT", nil, headers, body))
  end
  batches = #requests
  -- Threads begin at different batches, so that they do not go through the file abreast.
  math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)"), 16) % 100000)
  turn = math.random(0, batches - 1)
end

function request()
  turn = turn % batches + 1
  return requests[turn]
end

function response(status, _, body)
  answers = answers + 1
  if status ~= 207 then
    other_statuses = other_statuses + 1
  elseif body:find('"status":4', 1, true) or body:find('"status":5', 1, true)
      or body:sub(-1) ~= "}" then
    unsound = unsound + 1
  end
end

function done(summary)
  local answered, other, bad = 0, 0, 0
  for _, thread in ipairs(threads) do
    answered = answered + thread:get("answers")
    other = other + thread:get("other_statuses")
    bad = bad + thread:get("unsound")
  end
  local each = threads[1]:get("items") / threads[1]:get("batches")
  local rate = (answered - other) * each / (summary.duration / 1e6)
  print(string.format("Items/sec:    %.0f   (%d batches of %g items)", rate, answered - other, each))
  print(string.format("Not 207: %d; 207 with failed items: %d; socket errors: %d", other, bad,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
