-- A report on one JSON document with the content of DEPLOY.STATUS and the log of 100 events, or with the log in a stream if
-- there is a second key.
-- KEYS: the document, [the log]
-- ARGV: agent, state, version, job, attempt, now in ms, healthy_at in ms ('null' unless ready), channel, key
local deployment = cjson.decode(redis.call('GET', KEYS[1]))
local instance
for _, candidate in ipairs(deployment.instances) do
  if candidate.agent == ARGV[1] then
    instance = candidate
    break
  end
end
if instance.state == ARGV[2] then
  return 0
end
local now = tonumber(ARGV[6])
instance.state = ARGV[2]
instance.attempt = tonumber(ARGV[5])
instance.since = now
instance.healthy_at = tonumber(ARGV[7]) or cjson.null
deployment.revision = deployment.revision + 1
deployment.updated_at = now
local event = {
  revision = deployment.revision, at = now, key = ARGV[9], deployment_id = deployment.deployment_id,
  type = 'agent_state', version = tonumber(ARGV[3]), agent = ARGV[1], node = instance.node, job_id = ARGV[4],
  role = instance.role, state = ARGV[2], attempt = instance.attempt, reason = cjson.null, leaves = false,
  healthy_at = instance.healthy_at, fails_at_resume = false,
}
local text = cjson.encode(event)
if KEYS[2] then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100, '*', 'event', text)
else
  local events = deployment.events
  events[#events + 1] = event
  if #events > 100 then
    table.remove(events, 1)
  end
end
redis.call('SET', KEYS[1], cjson.encode(deployment))
redis.call('PUBLISH', ARGV[8], text)
return 1
