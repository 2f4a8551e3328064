local tenant, name, keep = unpack(ARGV)
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
settle(0)
return ended('cancelled', tenant .. '/' .. name, keep)
