#!lua flags=allow-oom
-- Empties a lane and starts it under a generation.
--
-- KEYS:    the lane's six, as in offer.lua: held, ready, clock, turns of rank 0, 1, 2
-- ARGV:    1 generation, then for each slot that is held: job id, run
-- Returns: 1 when it did, 0 when the lane is under that generation already.
--
-- Safe to repeat: the second time it is under that generation. A key of another type (some other
-- program's, or damage) is replaced like the rest.
if redis.pcall('HGET', KEYS[1], 'generation') == ARGV[1] then
    return 0
end
redis.call('UNLINK', unpack(KEYS))
redis.call('HSET', KEYS[1], 'generation', ARGV[1])
for first = 2, #ARGV, 1000 do
    redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return 1
