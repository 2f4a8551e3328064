local tenant, name, digest, query, class, batch, expires, ticket, grace, keep, upgrades, begins,
  traceparent = unpack(ARGV)
local there = redis.call('HGET', job, 'digest')
if there then
  if there == digest then return 'same' end
  return 'other'
end
redis.call('HSET', job, 'digest', digest, 'query', query, 'class', class, 'batch', batch, 'expires', expires,
  'ticket', ticket, 'upgrades', upgrades, 'state', 'queued', 'created', now, 'runs', 0)
if traceparent ~= '' then redis.call('HSET', job, 'traceparent', traceparent) end
redis.call('ZREMRANGEBYSCORE', jobs, '-inf', place - (keep + 2592000000) * 1000)
redis.call('ZADD', jobs, place, name)
if tonumber(begins) > now then
  postpone(tenant .. '/' .. name, begins)
else
  redis.call('ZADD', due, now + grace, tenant .. '/' .. name)
  in_line(tenant .. '/' .. name, now)
end
tell('queued')
return 'new'
