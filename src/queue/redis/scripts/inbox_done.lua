#!lua flags=allow-oom
-- Removes entries from a run's list: the ledger has them.
--
-- KEYS:    1 taken: the run's list, entries as `<id> <bytes>`
--          2 holders: set of `<run>:<slot>` whose lists hold something
-- ARGV:    1 `<run>:<slot>`, then the entries' ids
-- Returns: how many were removed.
--
-- Safe to repeat: ids that aren't there are passed over, others stay.
local list, holders = KEYS[1], KEYS[2]
local named, left, removed = {}, 0, 0
for i = 2, #ARGV do
    if not named[ARGV[i]] then
        named[ARGV[i]] = true
        left = left + 1
    end
end

-- They are at the head, unless somebody else was there meanwhile.
while left > 0 do
    local head = redis.call('LINDEX', list, 0)
    local id = head and string.sub(head, 1, 36)
    if not (id and named[id]) then
        break
    end
    redis.call('LPOP', list)
    named[id] = nil
    left = left - 1
    removed = removed + 1
end
if left > 0 then
    for _, entry in ipairs(redis.call('LRANGE', list, 0, -1)) do
        if named[string.sub(entry, 1, 36)] then
            removed = removed + redis.call('LREM', list, 1, entry)
        end
    end
end
if redis.call('EXISTS', list) == 0 then
    redis.call('SREM', holders, ARGV[1])
end
return removed
