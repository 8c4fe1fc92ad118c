#!lua
-- Appends a receipt to its reader's list, which expires.
--
-- KEYS:    1 the list
-- ARGV:    1 the receipt, 2 seconds that it waits for its reader
-- Returns: 1.
--
-- Repeated, it is there twice: the reader takes the first and the rest expires.
redis.call('RPUSH', KEYS[1], ARGV[1])
return redis.call('EXPIRE', KEYS[1], ARGV[2])
