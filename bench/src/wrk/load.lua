-- What wrk sends: a GET, or a POST with a body, with the next mandate of a file. Arguments: file, "once" or "again", bytes of the
-- body, header name and value pairs. At the end it prints one line of JSON.
local mandates, number, is_once, method, body, headers = {}, 0, false, "GET", nil, {}
exhausted = 0

local threads = {}
function setup(thread) table.insert(threads, thread) end

function init(arguments)
  for line in io.lines(arguments[1]) do mandates[#mandates + 1] = "Bearer " .. line end
  is_once = arguments[2] == "once"
  local bytes = tonumber(arguments[3])
  if bytes > 0 then method, body = "POST", string.rep("x", bytes) end
  for at = 4, #arguments, 2 do headers[arguments[at]] = arguments[at + 1] end
end

function request()
  number = number + 1
  if number > #mandates then
    if is_once then exhausted = 1 end
    number = 1
  end
  headers["Authorization"] = mandates[number]
  return wrk.format(method, nil, headers, body)
end

function done(summary, latency, requests)
  local ran_out = 0
  for _, thread in ipairs(threads) do ran_out = ran_out + thread:get("exhausted") end
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"requests":%d,"seconds":%f,"errors":%d,"ran_out":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration / 1e6, failed, ran_out,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
