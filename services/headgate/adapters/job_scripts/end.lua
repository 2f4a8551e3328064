local tenant, name, fence, state, answer, why, keep, cost = unpack(ARGV)
if not held(fence) then return 0 end
if answer ~= '' then redis.call('HSET', job, 'answer', answer) end
if why ~= '' then redis.call('HSET', job, 'error', why) end
settle(tonumber(cost))
return ended(state, tenant .. '/' .. name, keep)
