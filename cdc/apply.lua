#!lua name=loyalty

-- Applies the projector's batches. One call is atomic, so a batch, its watermark and its announcement appear together.
-- Every call is fenced: the mark must still be there (else Valkey was emptied) and carry the caller's epoch (else
-- another session has taken over and the caller is a zombie).

local HEADER_SIZE = 16
local RECENT_ENTRIES = 50
local VISIBLE_CHANNEL = 'visible'
local ANYTHING = '*' -- as in views.py: what is not announced member by member
local TOMBSTONE_S = 3600 -- outlives any row read before the removal and still on its way

local function fence(mark, epoch)
  local current = redis.call('HGET', mark, 'epoch')
  if not current then return redis.error_reply('EMPTIED the mark is gone') end
  if current ~= epoch then return redis.error_reply('FENCED by epoch ' .. current) end
end

local function why_incomplete(known, run_id, position, ends_at)
  if not known[1] then return 'no mark: Valkey is empty' end
  if known[2] ~= run_id then return 'Valkey was restarted' end
  if position ~= '' and tonumber(position) > tonumber(known[3] or 0) then
    return 'changes are missing between watermark and slot'
  end
  if ends_at ~= '' and tonumber(ends_at) < tonumber(known[3] or 0) then
    return 'the primary has lost changes that views show'
  end
  return known[4] == '1' and '' or 'the last rebuild did not finish'
end

-- Become the only writer. Answers the epoch and, when views may be missing or stale, why. A caller that held an epoch
-- keeps it if nothing happened meanwhile, and is refused if another has taken over.
-- ARGV: run_id, system, position the slot would resume from ('' when that is known to follow on), Unix time in ms,
--       epoch held so far ('' for a new projector, which takes over), end of the primary's WAL ('' as above)
local function open(keys, args)
  local mark, run_id, system, position, now_ms, held = keys[1], args[1], args[2], args[3], args[4], args[5]
  local ends_at = args[6] or ''
  local known = redis.call('HMGET', mark, 'epoch', 'run_id', 'watermark', 'complete', 'committed_at_us')
  local current = tonumber(known[1] or 0)
  if held ~= '' and current > tonumber(held) then return redis.error_reply('FENCED by epoch ' .. known[1]) end
  local why = why_incomplete(known, run_id, position, ends_at)
  local epoch = held
  if held == '' or held ~= known[1] or run_id ~= known[2] then
    -- Never an epoch that a Valkey emptied since has given before: time is the floor.
    epoch = string.format('%.0f', math.max(current + 1, tonumber(now_ms)))
    redis.call('HSET', mark, 'epoch', epoch, 'run_id', run_id, 'system', system)
    if why ~= '' then redis.call('HSET', mark, 'complete', '0', 'watermark', '0') end
    redis.call('PUBLISH', VISIBLE_CHANNEL, ANYTHING) -- whatever another projector, or none, did before
  end
  return { epoch, why, known[5] or '0' }
end

-- What does not begin with a version is older than everything: a damaged view holds nothing up.
local function header_of(value)
  return string.match(string.sub(value, 1, HEADER_SIZE), '^%d+$') or ''
end

local function stored_header(key)
  return header_of(redis.call('GETRANGE', key, 0, HEADER_SIZE - 1))
end

local function body_of(value)
  return string.sub(value, HEADER_SIZE + 1)
end

-- `repair` is nil for the stream. A rebuild may write what is equal: that repairs, and equal order means equal content.
local function is_newer(version, stored, repair)
  return stored < version or (repair and stored == version)
end

-- Views that show more than the row a rebuild read: the stream was faster, or the database lost what they show.
local function report(repair, key, stored)
  repair[#repair + 1] = key
  repair[#repair + 1] = stored
end

local function put_view(key, value, repair)
  if is_newer(header_of(value), stored_header(key), repair) then
    redis.call('SET', key, value)
  elseif repair then
    report(repair, key, redis.call('GET', key))
  end
end

local function put_entry(key, version, entry)
  redis.call('ZREMRANGEBYSCORE', key, version, version)
  redis.call('ZADD', key, version, entry)
  redis.call('ZREMRANGEBYRANK', key, 0, -RECENT_ENTRIES - 1)
end

-- An identifier can be removed and come back, so its removal leaves a tombstone that older states cannot pass.
local function stored_identifier(key)
  local stored, gone = redis.call('GET', key) or '', redis.call('GET', 'gone:' .. key)
  if gone and gone > header_of(stored) then return gone end
  return stored
end

local function set_identifier(key, value)
  if #value > HEADER_SIZE then
    redis.call('SET', key, value)
    redis.call('DEL', 'gone:' .. key)
  else
    redis.call('DEL', key)
    redis.call('SET', 'gone:' .. key, value, 'EX', TOMBSTONE_S)
  end
end

local function put_identifier(key, value, repair)
  local stored = stored_identifier(key)
  if is_newer(header_of(value), header_of(stored), repair) then
    set_identifier(key, value)
  elseif repair and body_of(value) ~= body_of(stored) then
    report(repair, key, stored)
  end
end

-- As in views.py: the rest of an identifier's key is a phone number, an address or a card.
local function in_logs(key)
  return string.match(key, '^i:%a+') or key
end

local function is_of_another_type(problem)
  return string.find(tostring(type(problem) == 'table' and problem.err or problem), 'WRONGTYPE', 1, true)
end

-- KEYS: mark, views, activity keys, identifiers
-- ARGV: epoch, '1' to repair, watermark ('' to leave it), commit time of the newest change in us, channel, announcement
--       ('' for none), number of views, number of entries; then a value per view, version and item per entry, a value
--       per identifier
-- Answers the keys that could not be written with their reasons, and to a repair: keys that show more, and their values.
local function apply(keys, args)
  local refused = fence(keys[1], args[1])
  if refused then return refused end
  local repair, watermark = args[2] == '1' and {} or nil, args[3]
  local last_view = 1 + tonumber(args[7])
  local last_entry = last_view + tonumber(args[8])
  local at, failed = 9, {}
  local function try(put, key, ...)
    local done, problem = pcall(put, key, ...)
    if not done and is_of_another_type(problem) then
      redis.call('DEL', key)
      done, problem = pcall(put, key, ...)
    end
    if not done then failed[#failed + 1] = in_logs(key) .. ': ' .. tostring(type(problem) == 'table' and problem.err or problem) end
  end
  for i = 2, last_view do
    try(put_view, keys[i], args[at], repair)
    at = at + 1
  end
  for i = last_view + 1, last_entry do
    try(put_entry, keys[i], args[at], args[at + 1])
    at = at + 2
  end
  for i = last_entry + 1, #keys do
    try(put_identifier, keys[i], args[at], repair)
    at = at + 1
  end
  if watermark ~= '' then redis.call('HSET', keys[1], 'watermark', watermark, 'committed_at_us', args[4]) end
  if args[6] ~= '' then redis.call('PUBLISH', args[5], args[6]) end
  if repair then redis.call('PUBLISH', args[5], ANYTHING) end
  return { failed, repair or {} }
end

-- Take back what the database lost, from views that still are as they were seen. What the stream brings in between is
-- refused by them, so the views count as incomplete from here on: the caller reads once more, and so does a successor.
-- KEYS: mark, views and identifiers. ARGV: epoch; then per key the value seen and the one to put there ('' for none)
local function lower(keys, args)
  local refused = fence(keys[1], args[1])
  if refused then return refused end
  local lowered = {}
  for i = 2, #keys do
    local key, seen, value = keys[i], args[2 * i - 2], args[2 * i - 1]
    local kind = string.sub(key, 1, 2)
    local stored = kind == 'i:' and stored_identifier(key) or redis.call('GET', key)
    if stored == seen then
      if kind == 'a:' then redis.call('DEL', 'e:' .. string.sub(key, 3)) end
      if kind == 'i:' then
        set_identifier(key, value)
      elseif value == '' then
        redis.call('DEL', key)
      else
        redis.call('SET', key, value)
      end
      lowered[#lowered + 1] = key
    end
  end
  if #lowered > 0 then
    redis.call('HSET', keys[1], 'complete', '0')
    redis.call('PUBLISH', VISIBLE_CHANNEL, ANYTHING)
  end
  return lowered
end

-- Take out views that cannot be parsed, as long as they are as they were seen, and whatever is of another type than a
-- view of its name. What the stream brings from then on is newer than nothing.
-- KEYS: mark, views. ARGV: epoch; then per key the value seen ('' where it is a list, or of another type)
local function discard(keys, args)
  local refused = fence(keys[1], args[1])
  if refused then return refused end
  local discarded = {}
  for i = 2, #keys do
    local key, is_list = keys[i], string.sub(keys[i], 1, 2) == 'e:'
    local kind = redis.call('TYPE', key).ok
    local is_view = kind == (is_list and 'zset' or 'string')
    if kind ~= 'none' and (not is_view or is_list or redis.call('GET', key) == args[i]) then
      redis.call('DEL', key)
      discarded[#discarded + 1] = key
    end
  end
  if #discarded > 0 then redis.call('PUBLISH', VISIBLE_CHANNEL, ANYTHING) end
  return discarded
end

-- Everything is there: misses mean absence from now on. ARGV: epoch
local function complete(keys, args)
  local refused = fence(keys[1], args[1])
  if refused then return refused end
  redis.call('HSET', keys[1], 'complete', '1')
  return 'OK'
end

redis.register_function('loyalty_open', open)
redis.register_function('loyalty_apply', apply)
redis.register_function('loyalty_lower', lower)
redis.register_function('loyalty_discard', discard)
redis.register_function('loyalty_complete', complete)
