local tenant, name, fence, why, pause, counted = unpack(ARGV)
if not held(fence) then return 0 end
settle(0)
if counted == '0' then redis.call('HINCRBY', job, 'runs', -1) end
redis.call('HSET', job, 'state', 'queued')
if why ~= '' then redis.call('HSET', job, 'why', why) end
redis.call('HDEL', job, 'lease')
redis.call('ZADD', due, now + pause, tenant .. '/' .. name)
in_line(tenant .. '/' .. name, redis.call('HGET', job, 'created'))
tell('queued')
return 1
