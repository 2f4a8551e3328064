local tenant, name, grace, expires, ticket = unpack(ARGV)
if redis.call('HGET', job, 'state') ~= 'dead' then return 0 end
redis.call('HSET', job, 'state', 'queued', 'runs', 0, 'expires', expires, 'ticket', ticket)
redis.call('HDEL', job, 'ended', 'error', 'why', 'begins', 'account', 'reserved')
-- Who watches it is told of its new life only.
redis.call('XTRIM', events, 'MAXLEN', 0)
redis.call('PERSIST', job)
redis.call('PERSIST', events)
redis.call('ZREM', dead, name)
redis.call('ZREM', all_dead, tenant .. '/' .. name)
in_line(tenant .. '/' .. name, now)
redis.call('ZADD', due, now + grace, tenant .. '/' .. name)
tell('queued')
return 1
