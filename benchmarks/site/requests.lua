-- What wrk asks, from the environment: SITE_PATH; with a SITE_BODY a command, each with a new
-- key. SITE_HEADERS is a file with a header in each line, and each request takes the next one.
local path, body, prefix = os.getenv("SITE_PATH"), os.getenv("SITE_BODY"), os.getenv("SITE_KEYS")
local headers, asked = {}, 0
for line in io.lines(os.getenv("SITE_HEADERS")) do
    local name, value = line:match("^([^:]+): (.+)$")
    headers[#headers + 1] = { [name] = value }
end

function request()
    asked = asked + 1
    local header = headers[asked % #headers + 1]
    if not body then
        return wrk.format("GET", path, header)
    end
    header["Content-Type"] = "application/json"
    header["Idempotency-Key"] = prefix .. asked
    return wrk.format("POST", path, header, body)
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p95_ms": %f, "p99_ms": %f, "errors": %d}\n',
        summary.requests, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
