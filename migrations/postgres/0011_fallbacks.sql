-- Fallbacks: a job may be done by another account than its own, and what it sends it sends for one account.

-- Whether something of a job's revision was permitted for another account than this one. It is volatile, as
-- is_shut is, and for the same reason.
CREATE FUNCTION presswork.is_sent_elsewhere(of_job uuid, of_revision integer, of_account text) RETURNS boolean
    LANGUAGE sql VOLATILE
    AS $$
SELECT EXISTS (
    SELECT FROM presswork.effects o
    WHERE o.job = of_job AND o.revision = of_revision AND o.account <> of_account AND o.state <> 'intended'
)
$$;
-- Of all functions a producer may call the one that is its door.
REVOKE ALL ON FUNCTION presswork.is_sent_elsewhere(uuid, integer, text) FROM PUBLIC;
