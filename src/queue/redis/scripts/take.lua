#!lua flags=allow-oom
-- Takes the first jobs of a lane and gives each a slot in a run's name.
--
-- KEYS:    the lane's six, as in offer.lua: held, ready, clock, turns of rank 0, 1, 2
-- ARGV:    1 generation, 2 run, 3 how many at most, 4 slots that may be held (empty: any number)
-- Returns: { job ids in order, jobs still ready, slots held now }; nil when the lane is under
--          another generation.
--
-- Safe to repeat: what an unheard answer gave stays held in the run's name. A second take gives
-- other jobs; the engine compares the held slots with what it runs and releases the rest.
local held, ready, clock = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HGET', held, 'generation') ~= ARGV[1] then
    return false
end
local RANK = 2 ^ 50

local free = tonumber(ARGV[3])
if ARGV[4] ~= '' then
    -- One field is the generation.
    free = math.min(free, tonumber(ARGV[4]) - redis.call('HLEN', held) + 1)
end
local taken, now = {}, {}
while free > 0 do
    local popped = redis.call('ZPOPMIN', ready, math.min(free, 1000))
    if #popped == 0 then
        break
    end
    local slots = {}
    for i = 1, #popped, 2 do
        local id, score = string.sub(popped[i], 1, 36), tonumber(popped[i + 1])
        local rank = math.floor(score / RANK)
        now[rank] = math.floor((score - rank * RANK) / 4)
        slots[#slots + 1] = id
        slots[#slots + 1] = ARGV[2]
        taken[#taken + 1] = id
    end
    redis.call('HSET', held, unpack(slots))
    free = free - #popped / 2
end

local left = redis.call('ZCARD', ready)
if left == 0 then
    -- An empty window has no past: whoever comes next, comes first.
    redis.call('UNLINK', clock, KEYS[4], KEYS[5], KEYS[6])
else
    for rank, turn in pairs(now) do
        local text = string.format('%.0f', turn)
        redis.call('HSET', clock, string.format('%.0f', rank), text)
        -- Turns that are past say no more than that there are none.
        redis.call('ZREMRANGEBYSCORE', KEYS[4 + rank], '-inf', text)
    end
end
return { taken, left, redis.call('HLEN', held) - 1 }
