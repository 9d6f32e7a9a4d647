-- Takes a node's records for one process. KEYS: meta. ARGV: this release's format, the process, the number under which it
-- held the records before (0: never), and then what it holds of meta, names and values in turn, if it held them before.
-- Gives the new holder's text and all of meta.
local format = redis.call('HGET', KEYS[1], 'format')
if format and (tonumber(format) or 0) < 1 then
  return redis.error_reply('DAMAGED its field `format` is no number')
end
if format and tonumber(format) > tonumber(ARGV[1]) then
  return redis.error_reply('NEWERFORMAT ' .. format)
end
if format and tonumber(format) < tonumber(ARGV[1]) then
  return redis.error_reply('OLDERFORMAT ' .. format)
end
local before = tonumber(ARGV[3])
local number = before
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder then
  local held, process = string.match(holder, '^(%d+) (%x+)$')
  if not held then
    return redis.error_reply('DAMAGED its field `holder` names no process')
  end
  held = tonumber(held)
  -- A smaller number is of an earlier process: Redis has come back without the tail in which we took over.
  if before > 0 and process ~= ARGV[2] and held > before then
    return redis.error_reply('SUPERSEDED another process has taken the records')
  end
  if held > number then
    number = held
  end
end
holder = string.format('%d %s', number + 1, ARGV[2])
local kept = { format = true, holder = true }
local fields = { 'format', ARGV[1], 'holder', holder }
for at = 4, #ARGV, 2 do
  kept[ARGV[at]] = true
  fields[#fields + 1] = ARGV[at]
  fields[#fields + 1] = ARGV[at + 1]
end
-- First what may be refused when Redis is full.
redis.call('HSET', KEYS[1], unpack(fields))
if before > 0 then
  for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not kept[name] then
      redis.call('HDEL', KEYS[1], name)
    end
  end
end
return { holder, redis.call('HGETALL', KEYS[1]) }
