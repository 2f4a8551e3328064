redis.call('ZREMRANGEBYSCORE', all_dead, '-inf', now)
local found = {redis.call('ZCARD', all_dead)}
for _, class in ipairs(ARGV) do
  local first = redis.call('ZRANGE', line .. ':' .. class, 0, 0, 'WITHSCORES')
  table.insert(found, redis.call('ZCARD', line .. ':' .. class))
  table.insert(found, first[2] and now - first[2] or 0)
end
return found
