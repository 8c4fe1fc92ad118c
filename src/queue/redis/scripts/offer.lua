#!lua flags=allow-oom
-- Puts hints into a lane's window, by priority and the turns of flows.
--
-- KEYS:    1 held: hash of the generation (field `generation`) and job id -> run
--          2 ready: sorted set of `<job id> <whose>`; score = rank * 2^50 + turn * 4 + own rank
--          3 clock: hash of rank -> the turn that is being served
--          4, 5, 6 turns of rank 0, 1, 2: sorted sets of flows; score = the flow's next turn
-- ARGV:    1 generation, 2 window (jobs), then for each hint: job id, rank (0 to 2), own rank, whose, step.
--          Whose is `<tenant>` or `<tenant>\n<account>`, a flow `<own rank><whose>`. The rank is 0 where the
--          own one was lifted. At most 1,000 hints: `unpack` bears less than 8,000 values.
-- Returns: the jobs in the window; nil when the lane is under another generation.
--
-- Safe to repeat: an id that is ready or held is left as it is, and so is its flow's turn. Only one that is
-- lifted moves up to rank 0, once.
-- Start-time fair queueing: a flow's job starts a step after the flow's last one, and never
-- before the turn that is being served. What is evicted gives its turn back: otherwise who is
-- evicted and offered again would stand further behind each time.
local held, ready, clock = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HGET', held, 'generation') ~= ARGV[1] then
    return false
end
local RANK = 2 ^ 50
local LAST = 2 ^ 48 - 1

-- Read where needed, written at the end.
local turns = { [0] = {}, {}, {} }
local function turn(rank, flow)
    local found = turns[rank][flow]
    if not found then
        found = tonumber(redis.call('ZSCORE', KEYS[4 + rank], flow) or 0)
        turns[rank][flow] = found
    end
    return found
end

-- Whose it is stands with the id: a hash of its own for it doubles what an id costs.
local ids, members = {}, {}
for i = 3, #ARGV, 5 do
    ids[#ids + 1] = ARGV[i]
    members[#members + 1] = ARGV[i] .. ' ' .. ARGV[i + 3]
end
if #ids > 0 then
    local now = redis.call('HMGET', clock, '0', '1', '2')
    local scores = redis.call('ZMSCORE', ready, unpack(members))
    local runs = redis.call('HMGET', held, unpack(ids))
    local seen, places = {}, {}
    for n, id in ipairs(ids) do
        local at = 5 * n - 2
        local score, lifted = seen[id] or scores[n], ARGV[at + 1] ~= ARGV[at + 2]
        if not runs[n] and (not score or (lifted and RANK <= tonumber(score))) then
            local rank, flow = tonumber(ARGV[at + 1]), ARGV[at + 2] .. ARGV[at + 3]
            local start = math.max(turn(rank, flow), tonumber(now[rank + 1] or 0))
            start = math.min(start, LAST)
            turns[rank][flow] = start + ARGV[at + 4]
            seen[id] = string.format('%.0f', rank * RANK + start * 4 + ARGV[at + 2])
            places[#places + 1] = seen[id]
            places[#places + 1] = members[n]
        end
    end
    if #places > 0 then
        redis.call('ZADD', ready, unpack(places))
    end
end

local count = redis.call('ZCARD', ready)
local surplus = count - tonumber(ARGV[2])
while surplus > 0 do
    local gone = redis.call('ZPOPMAX', ready, math.min(surplus, 1000))
    for i = 1, #gone, 2 do
        local whose, score = string.sub(gone[i], 38), tonumber(gone[i + 1])
        local rank = math.floor(score / RANK)
        local flow = score % 4 .. whose
        local start = math.floor((score - rank * RANK) / 4)
        if start < turn(rank, flow) then
            turns[rank][flow] = start
        end
    end
    surplus = surplus - #gone / 2
    count = count - #gone / 2
end

if count == 0 then
    -- An empty window has no past: whoever comes next, comes first.
    redis.call('UNLINK', clock, KEYS[4], KEYS[5], KEYS[6])
else
    for rank = 0, 2 do
        for flow, next in pairs(turns[rank]) do
            redis.call('ZADD', KEYS[4 + rank], string.format('%.0f', next), flow)
        end
    end
end
return count
