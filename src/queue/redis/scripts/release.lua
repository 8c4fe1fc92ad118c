#!lua flags=allow-oom
-- Frees slots of a lane and forgets the jobs, wherever they are.
--
-- KEYS:    the lane's seven, as in offer.lua: held, ready, tenants, clock, turns of rank 0, 1, 2
-- ARGV:    1 generation, then job ids
-- Returns: 1; nil when the lane is under another generation.
--
-- Safe to repeat: ids that aren't there are passed over.
local held, ready, tenants, clock = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HGET', held, 'generation') ~= ARGV[1] then
    return false
end
for first = 2, #ARGV, 1000 do
    local last = math.min(first + 999, #ARGV)
    redis.call('HDEL', held, unpack(ARGV, first, last))
    redis.call('ZREM', ready, unpack(ARGV, first, last))
    redis.call('HDEL', tenants, unpack(ARGV, first, last))
end
if redis.call('EXISTS', ready) == 0 then
    -- An empty window has no past: whoever comes next, comes first.
    redis.call('UNLINK', clock, KEYS[5], KEYS[6], KEYS[7])
end
return 1
