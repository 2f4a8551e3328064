local job, events, jobs, dead, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local line, all_dead = KEYS[6], KEYS[7]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Lists are told page by page: two jobs of one instant would be one too few.
local place = clock[1] * 1000000 + clock[2]

-- Who watches wakes. A user who may not publish has watchers that are late, and jobs all the same.
local function ring()
  redis.pcall('PUBLISH', events, '')
end

local function tell(state)
  redis.call('XADD', events, '*', 'state', state, 'runs', redis.call('HGET', job, 'runs'))
  ring()
end

-- The line of the job's class, which tells how long it is and for how long its first one waits.
local function in_line(member, since)
  redis.call('ZADD', line .. ':' .. redis.call('HGET', job, 'class'), since, member)
end

local function out_of_line(member)
  redis.call('ZREM', line .. ':' .. redis.call('HGET', job, 'class'), member)
end

-- The job has ended: nobody has to look at it any more, and its record is kept for a while. What to count of it.
local function ended(state, member, keep)
  redis.call('HSET', job, 'state', state, 'ended', now)
  out_of_line(member)
  redis.call('HDEL', job, 'lease')
  redis.call('ZREM', due, member)
  redis.call('ZREMRANGEBYSCORE', dead, '-inf', place - keep * 1000)
  if state == 'dead' then
    redis.call('ZADD', dead, place, ARGV[2])
    redis.call('ZADD', all_dead, now + keep, member)
  end
  tell(state)
  redis.call('PEXPIRE', job, keep)
  redis.call('PEXPIRE', events, keep)
  local found = redis.call('HMGET', job, 'class', 'created')
  return {state, found[1], now - found[2]}
end

-- The job is not begun before then, and nobody has to look at it. Its own time is over all the same.
local function postpone(member, begins)
  begins = math.min(begins, tonumber(redis.call('HGET', job, 'expires')))
  redis.call('HSET', job, 'begins', begins)
  redis.call('ZADD', due, begins, member)
  out_of_line(member)
end

-- What was reserved for a run is given back but for what it cost.
local function settle(cost)
  local account, reserved = unpack(redis.call('HMGET', job, 'account', 'reserved'))
  if not account then return end
  redis.call('HINCRBY', account, 'taken', cost - reserved)
  if cost > tonumber(redis.call('HGET', account, 'most') or 0) then redis.call('HSET', account, 'most', cost) end
  redis.call('PEXPIRE', account, 172800000)
  redis.call('HDEL', job, 'account', 'reserved')
end

-- Whether this run still holds the job.
local function held(fence)
  return redis.call('HGET', job, 'state') == 'running' and redis.call('HGET', job, 'fence') == fence
end

local function keep_lease(member, lease)
  redis.call('HSET', job, 'lease', now + lease)
  redis.call('ZADD', due, now + lease, member)
end
