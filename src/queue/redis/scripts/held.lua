#!lua flags=allow-oom
-- The slots of a lane that are held.
--
-- KEYS:    the lane's six, as in offer.lua, of which it reads the first: held
-- ARGV:    1 generation
-- Returns: job id, run, job id, run ... in no order; nil when the lane is under another generation.
--
-- Safe to repeat: it only reads.
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then
    return false
end
local all, slots = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
    if all[i] ~= 'generation' then
        slots[#slots + 1] = all[i]
        slots[#slots + 1] = all[i + 1]
    end
end
return slots
