local tenant, name, fence, lease, most, first = unpack(ARGV, 1, 6)
if not held(fence) then return -1 end
local parts = tonumber(redis.call('HGET', job, 'parts'))
first = tonumber(first) or parts
if parts < first then
  -- The server has forgotten what it had said was written: the run tells all of it again.
  tell('running')
  redis.call('HSET', job, 'parts', 0)
  return 0
end
-- What an earlier try has written, whose reply got lost, is there already.
for place = 7 + parts - first, #ARGV do
  redis.call('XADD', events, 'MAXLEN', '~', most, '*', 'part', ARGV[place])
end
ring()
parts = math.max(parts, first + #ARGV - 6)
redis.call('HSET', job, 'parts', parts)
keep_lease(tenant .. '/' .. name, lease)
return parts
