#!lua flags=allow-oom
-- Frees slots of a lane.
--
-- KEYS:    the lane's six, as in offer.lua, of which it reads the first: held
-- ARGV:    1 generation, then job ids
-- Returns: 1; nil when the lane is under another generation.
--
-- Safe to repeat: ids that aren't there are passed over.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
    return false
end
for first = 2, #ARGV, 1000 do
    redis.call('HDEL', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return 1
