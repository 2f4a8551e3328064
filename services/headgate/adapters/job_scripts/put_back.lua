local tenant, name, fence, why, pause = unpack(ARGV)
if not held(fence) then return 0 end
redis.call('HSET', job, 'state', 'queued', 'why', why)
redis.call('HDEL', job, 'lease')
redis.call('ZADD', due, now + pause, tenant .. '/' .. name)
tell('queued')
return 1
