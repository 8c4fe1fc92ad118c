#!lua flags=allow-oom
-- How many jobs are ready in a lane's window.
--
-- KEYS:    the lane's six, as in offer.lua, of which it reads the first two: held, ready
-- ARGV:    1 generation
-- Returns: the jobs in the window; nil when the lane is under another generation.
--
-- Safe to repeat: it only reads.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
    return false
end
return redis.call('ZCARD', KEYS[2])
