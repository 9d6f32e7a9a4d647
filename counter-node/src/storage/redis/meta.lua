-- Writes values of meta. KEYS: meta. ARGV: the holder, then per value its name, `=` or `-` (remove), and the value.
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder ~= ARGV[1] then
  return redis.error_reply(holder and 'SUPERSEDED another process has taken the records' or 'LOST the records are gone')
end
for at = 2, #ARGV, 3 do
  if ARGV[at + 1] == '=' then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
  end
end
for at = 2, #ARGV, 3 do
  if ARGV[at + 1] == '-' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  end
end
return redis.status_reply('OK')
