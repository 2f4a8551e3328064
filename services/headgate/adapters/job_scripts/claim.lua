local tenant, name, fence, lease, most, keep, opens, prefix, of_batch, of_upgrades = unpack(ARGV)
local member = tenant .. '/' .. name
local state = redis.call('HGET', job, 'state')
if state ~= 'queued' and state ~= 'running' then return 'ended' end
local lost = 0
-- A run that asks again did not hear that it has the job, and is counted once.
if not held(fence) then
  if state == 'running' and tonumber(redis.call('HGET', job, 'lease') or 0) > now then return 'held' end
  -- The run before this one never told its end.
  lost = state == 'running' and 1 or 0
  if now >= tonumber(redis.call('HGET', job, 'expires')) then
    return {'ended', lost, unpack(ended('failed', member, keep))}
  end
  if tonumber(redis.call('HGET', job, 'runs')) >= tonumber(most) then
    local why = redis.call('HGET', job, 'why')
    if why then redis.call('HSET', job, 'error', why) end
    return {'ended', lost, unpack(ended('dead', member, keep))}
  end
  if tonumber(redis.call('HGET', job, 'begins') or 0) > now then return 'early' end
  local class = redis.call('HGET', job, 'class')
  local begins, account, dearest = now + (class == 'batch' and opens or 0)
  local budget = tonumber(class == 'batch' and of_batch or class == 'escalation' and of_upgrades or 0)
  if begins == now and budget > 0 then
    local day = math.floor(clock[1] / 86400)
    account = prefix .. 'budget:' .. tenant .. ':' .. class .. ':' .. day
    local taken, most_taken = unpack(redis.call('HMGET', account, 'taken', 'most'))
    taken, dearest = tonumber(taken or 0), tonumber(most_taken or 0)
    if taken >= budget then
      begins = (day + 1) * 86400000
    elseif taken + dearest > budget then
      -- Runs under way may turn out cheaper: ten thousand jobs ask again, and not all the time.
      begins = now + 600000
    end
  end
  -- A full server refuses the first write that needs room: no other write may come before it.
  if begins > now then
    redis.call('HSET', job, 'state', 'queued')
    redis.call('HDEL', job, 'lease', 'account', 'reserved')
    postpone(member, begins)
    tell('queued')
    return 'early'
  end
  -- Counted before it runs: a job that kills its runner is counted all the same.
  redis.call('HINCRBY', job, 'runs', 1)
  redis.call('HINCRBY', job, 'begun', 1)
  -- What a run may have cost that never told its end stays taken.
  redis.call('HDEL', job, 'account', 'reserved')
  if account then
    -- The day's dearest answer is reserved: what this one costs nobody knows yet.
    redis.call('HINCRBY', account, 'taken', dearest)
    redis.call('PEXPIRE', account, 172800000)
    redis.call('HSET', job, 'account', account, 'reserved', dearest)
  end
  redis.call('HSET', job, 'state', 'running', 'fence', fence, 'parts', 0)
  redis.call('HDEL', job, 'why')
  out_of_line(member)
  tell('running')
end
keep_lease(member, lease)
local found = redis.call('HMGET', job, 'query', 'ticket', 'upgrades', 'expires', 'runs', 'begun', 'class', 'created',
  'traceparent')
local left, waited = tonumber(found[4]) - now, now - found[8]
return {'run', lost, found[1], found[2], found[3] or '', found[4], found[5], found[6] or 0, left, found[7], waited,
  found[9] or ''}
