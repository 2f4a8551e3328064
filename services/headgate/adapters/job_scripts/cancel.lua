local tenant, name, keep = unpack(ARGV)
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
return ended('cancelled', tenant .. '/' .. name, keep)
