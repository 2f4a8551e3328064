local prefix, most, grace = unpack(ARGV)
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, most)) do
  local tenant, name = string.match(member, '^([^/]*)/(.*)$')
  local class = redis.call('HGET', prefix .. 'job:' .. tenant .. ':' .. name, 'class')
  if class then
    redis.call('ZADD', KEYS[1], now + grace, member)
    redis.call('ZADD', prefix .. 'jobs-line:' .. class, 'NX', now, member)
    table.insert(found, tenant)
    table.insert(found, name)
    table.insert(found, class)
  else
    redis.call('ZREM', KEYS[1], member)
  end
end
return found
