-- Writes records, slot by slot. KEYS: meta, slots, and of each slot's counters the key without its generation. ARGV: the
-- holder, then per slot its number, its record (see below), how many counters follow, and of each its field and value; an
-- empty value removes it.
--
-- A slot's record is one of: nothing, which leaves it as it is; `GENERATION BYTES`, which makes that generation the slot's,
-- after its counters have been written, and removes the counters of the generation before; `0 `, the same for the first
-- generation, of which there is no record; `+GENERATION`, which only says of which generation the counters are.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder ~= ARGV[1] then
  return redis.error_reply(holder and 'SUPERSEDED another process has taken the records' or 'LOST the records are gone')
end

-- Numbers are decimal text without leading zeros: they have up to 128 bits, and Lua's have 53.
local function below(one, other)
  if #one ~= #other then
    return #one < #other
  end
  return one < other
end

-- Each part of a counter becomes the larger of what is sent and what is there.
local function merged(sent, stored)
  local mine, theirs, behind = cmsgpack.unpack(sent), cmsgpack.unpack(stored), false
  for part, number in pairs(theirs) do
    if not mine[part] or below(mine[part], number) then
      mine[part] = number
      behind = true
    end
  end
  return behind and cmsgpack.pack(mine) or sent
end

local at = 2
for index = 3, #KEYS do
  local slot, record, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  at = at + 3
  local stored = redis.call('HGET', KEYS[2], slot)
  local before = stored and string.match(stored, '^%d+') or '0'
  local generation = record == '' and before or string.match(record, '%d+')
  local key = KEYS[index] .. ':' .. generation
  for _ = 1, count do
    local field, value = ARGV[at], ARGV[at + 1]
    at = at + 2
    if value == '' then
      redis.call('HDEL', key, field)
    else
      local there = string.sub(field, 1, 1) == 'c' and redis.call('HGET', key, field)
      redis.call('HSET', key, field, there and merged(value, there) or value)
    end
  end
  local first = string.sub(record, 1, 1)
  if first ~= '' and first ~= '+' then
    if generation == '0' then
      redis.call('HDEL', KEYS[2], slot)
    else
      redis.call('HSET', KEYS[2], slot, record)
    end
    if generation ~= before then
      redis.call('UNLINK', KEYS[index] .. ':' .. before)
      -- And what was begun and never finished between the two.
      for unfinished = math.max(before + 1, generation - 64), generation - 1 do
        redis.call('UNLINK', KEYS[index] .. string.format(':%d', unfinished))
      end
    end
  end
end
return redis.status_reply('OK')
