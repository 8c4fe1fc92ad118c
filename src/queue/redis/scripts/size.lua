#!lua flags=allow-oom
-- How many jobs are ready in a lane's window.
--
-- KEYS:    1 held: hash of the generation (field `generation`) and job id -> run
--          2 ready: sorted set of job ids
-- ARGV:    1 generation
-- Returns: the jobs in the window; nil when the lane is under another generation.
--
-- Safe to repeat: it only reads.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
    return false
end
return redis.call('ZCARD', KEYS[2])
