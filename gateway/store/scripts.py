"""What does the Redis store run inside the server, so that each call is atomic?

Times are the server's own (`TIME`), in microseconds: the hosts' clocks need not agree. Keys of
what must not get lost carry no expiry, so that no `volatile-*` eviction takes one without the
other; an `allkeys-*` eviction policy would, and must not be set.
"""

from __future__ import annotations

_SHARED = """
local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function tick(key, at_least)
  local last = math.max(tonumber(redis.call('GET', key) or '0'), at_least or 0)
  local new = math.max(last + 1, now_us())
  redis.call('SET', key, string.format('%.0f', new))
  return new
end

local function is_live(expires, ttl, now)
  return expires > now and expires - now <= ttl
end

local function lease_of(leases, name)
  local said = redis.call('HGET', leases, name)
  if not said then return nil end
  local token, expires, ttl, owner = said:match('^(%d+):(%d+):(%d+):(.*)$')
  return {token = token, owner = owner, live = is_live(tonumber(expires), tonumber(ttl), now_us())}
end

local function is_fenced(leases, name, token)
  if name == '' then return false end
  local lease = lease_of(leases, name)
  return not (lease and lease.live and lease.token == token)
end
"""

# KEYS: progress, names, one hash per name. ARGV: process, after, seq, microseconds to keep
# progress for, then for each name: name, number of fields, field, number, ...
PUSH = (
    _SHARED
    + """
local said = redis.call('HGET', KEYS[1], ARGV[1])
local last = said and said:match('^%d+') or '0'
if last ~= ARGV[2] then return tonumber(last) end
local now = now_us()
if not said then
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if now - tonumber(all[i + 1]:match('%d+$')) > tonumber(ARGV[4]) then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
local at = 5
for i = 3, #KEYS do
  redis.call('ZADD', KEYS[2], 0, ARGV[at])
  local fields = tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, fields do
    local held = tonumber(redis.call('HGET', KEYS[i], ARGV[at]) or '0')
    redis.call('HSET', KEYS[i], ARGV[at], string.format('%.17g', held + tonumber(ARGV[at + 1])))
    at = at + 2
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ':' .. string.format('%.0f', now))
return tonumber(ARGV[3])
"""
)

# KEYS: names. ARGV: the first and the last, as ZRANGEBYLEX has them.
BETWEEN = "return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2])"

# KEYS: one hash per name. Not MULTI: a server that is out of memory refuses what is queued.
TOTALS = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HGETALL', key) end
return found
"""

# KEYS: names, one hash per name. ARGV: the names.
FORGET = """
for i, name in ipairs(ARGV) do
  redis.call('DEL', KEYS[i + 1])
  redis.call('ZREM', KEYS[1], name)
end
return 0
"""

# KEYS: reports. ARGV: process, value, microseconds to live.
REPORT = (
    _SHARED
    + """
if ARGV[3] == '0' then return redis.call('HDEL', KEYS[1], ARGV[1]) end
local expires = string.format('%.0f', now_us() + tonumber(ARGV[3]))
return redis.call('HSET', KEYS[1], ARGV[1], expires .. ':' .. ARGV[3] .. ':' .. ARGV[2])
"""
)

# KEYS: reports.
REPORTS = (
    _SHARED
    + """
local all, found, now = redis.call('HGETALL', KEYS[1]), {}, now_us()
for i = 1, #all, 2 do
  local expires, ttl, value = all[i + 1]:match('^(%d+):(%d+):(.*)$')
  if is_live(tonumber(expires), tonumber(ttl), now) then
    found[#found + 1] = all[i]
    found[#found + 1] = value
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
"""
)

# KEYS: documents. ARGV: key.
GET = "return redis.call('HGET', KEYS[1], ARGV[1])"

# KEYS: documents, changed, revision, leases. ARGV: key, value, expected version, fence's lease
# and token ('' for none).
PUT = (
    _SHARED
    + """
if is_fenced(KEYS[4], ARGV[4], ARGV[5]) then return -1 end
local said = redis.call('HGET', KEYS[1], ARGV[1])
local version = said and said:match('^%d+') or '0'
if version ~= ARGV[3] then return 0 end
local revision = tick(KEYS[3])
local text = string.format('%.0f', revision)
redis.call('HSET', KEYS[1], ARGV[1], text .. ':' .. ARGV[2])
redis.call('ZADD', KEYS[2], text, ARGV[1])
return revision
"""
)

# KEYS: documents, changed, revision. ARGV: key, value, version, ...
RESTORE = (
    _SHARED
    + """
local count = 0
for i = 1, #ARGV, 3 do
  local said = redis.call('HGET', KEYS[1], ARGV[i])
  local version = tonumber(said and said:match('^%d+') or '0')
  if version < tonumber(ARGV[i + 2]) then
    local revision = tick(KEYS[3], tonumber(ARGV[i + 2]))
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2] .. ':' .. ARGV[i + 1])
    redis.call('ZADD', KEYS[2], string.format('%.0f', revision), ARGV[i])
    count = count + 1
  end
end
return count
"""
)

# KEYS: documents, changed, revision. ARGV: revision.
CHANGES = """
local found = {tonumber(redis.call('GET', KEYS[3]) or '0')}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf')) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('HGET', KEYS[1], key)
end
return found
"""

# KEYS: order of a stream's ids, its events, revision, leases. ARGV: id, value, events to keep,
# fence's lease and token.
APPEND = (
    _SHARED
    + """
if is_fenced(KEYS[4], ARGV[4], ARGV[5]) then return -1 end
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', tick(KEYS[3])), ARGV[1])
local gone = redis.call('ZRANGE', KEYS[1], 0, -1 - tonumber(ARGV[3]))
for _, id in ipairs(gone) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
end
return 0
"""
)

# KEYS: order, events. ARGV: how many.
TAIL = """
local found = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], -tonumber(ARGV[1]), -1)) do
  found[i] = redis.call('HGET', KEYS[2], id)
end
return found
"""

# KEYS: leases, revision. ARGV: name, owner, microseconds to live.
ACQUIRE = (
    _SHARED
    + """
local lease = lease_of(KEYS[1], ARGV[1])
local token
if lease and lease.live then
  if lease.owner ~= ARGV[2] then return 0 end
  token = lease.token
else
  token = string.format('%.0f', tick(KEYS[2]))
end
local expires = string.format('%.0f', now_us() + tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], ARGV[1], table.concat({token, expires, ARGV[3], ARGV[2]}, ':'))
return tonumber(token)
"""
)

# KEYS: leases. ARGV: name, token.
RELEASE = (
    _SHARED
    + """
local lease = lease_of(KEYS[1], ARGV[1])
if lease and lease.token == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""
)
