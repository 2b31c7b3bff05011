-- Script for redis_exporter --script: exports every number of INFO deploy as redis_script_values{key="deploy_…"}.
local numbers = {}
for name, value in redis.call('INFO', 'deploy'):gmatch('(deploy_[%w_]+):(%d+)') do
    numbers[#numbers + 1] = name
    numbers[#numbers + 1] = value
end
return numbers
