#!lua flags=allow-oom
-- Moves entries from the inbox to a run's list, each with an id, and returns all that list holds.
--
-- KEYS:    1 inbox: list of entries as producers pushed them
--          2 taken: the run's list, entries as `<id> <bytes>`
--          3 holders: set of `<run>:<slot>` whose lists hold something
-- ARGV:    1 `<run>:<slot>`, 2 bytes at which to stop moving, then one fresh id (a UUID of 36
--          characters) for each entry that may be moved
-- Returns: the list's entries, oldest first.
--
-- Safe to repeat: what an unheard answer moved is in the list, and is returned first next time, with
-- the same ids. Every read that could fail (a key of another type) comes before the first move.
local inbox, list, holders, holder = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local x = '%x%x%x%x'
local SHAPE = '^' .. x .. x .. '%-' .. x .. '%-' .. x .. '%-' .. x .. '%-' .. x .. x .. x .. ' '

local found = redis.call('LRANGE', list, 0, -1)
local waiting = redis.call('LLEN', inbox)
if #found > 0 or (waiting > 0 and #ARGV > 2) then
    redis.call('SADD', holders, holder)
else
    redis.call('SREM', holders, holder)
end

local entries, bytes = {}, 0
for _, entry in ipairs(found) do
    if string.find(entry, SHAPE) then
        entries[#entries + 1] = entry
        bytes = bytes + #entry
    else
        -- Not ours: it goes the way of everything that somebody pushed.
        redis.call('RPUSH', inbox, entry)
        redis.call('LREM', list, 1, entry)
    end
end
for i = 3, #ARGV do
    local raw = bytes < tonumber(ARGV[2]) and redis.call('LPOP', inbox)
    if not raw then
        break
    end
    local entry = ARGV[i] .. ' ' .. raw
    redis.call('RPUSH', list, entry)
    entries[#entries + 1] = entry
    bytes = bytes + #entry
end
return entries
