"""What Python's `redis` expects of the Redis port: `client.py PORT TOKEN`."""

import json
import sys

import redis

INBOX = "presswork:inbox"
port, token = int(sys.argv[1]), sys.argv[2]


def job(key, **payload):
    return json.dumps({"kind": "test.job", "key": key, "payload": payload})


def refused(call, *words):
    try:
        answer = call()
    except redis.RedisError as error:
        for word in words:
            assert word in str(error), (word, str(error))
        assert token not in str(error)
        return error
    raise AssertionError(f"it was taken: {answer}")


def connect(password, protocol, **more):
    return redis.Redis(
        host="127.0.0.1", port=port, password=password, protocol=protocol, decode_responses=True, **more
    )


for protocol in (2, 3):
    r = connect(token, protocol, client_name="tests")
    assert r.ping() is True
    key = f"python-{protocol}"
    assert r.rpush(INBOX, job(f"{key}-0")) == 1
    assert r.rpush(INBOX, job(f"{key}-0")) == 1, "the same again"
    assert r.lpush(f"{INBOX}:acme", job(key)) == 1
    ids = r.execute_command("PRESSWORK.ENQUEUE", job(f"{key}-0"), job(f"{key}-1"))
    assert len(ids) == 2 and len(set(ids)) == 2, ids
    refused(lambda: r.rpush(INBOX, job(f"{key}-0", sleep_ms=7)), "CONFLICT", ids[0], "/sleep_ms")
    refused(lambda: r.rpush(INBOX, job("python-none"), "{}"), "MALFORMED [1] of 2", "/kind")
    refused(lambda: r.rpush("elsewhere", job("python-none")), INBOX)
    refused(lambda: r.get("x"), "isn't known")
    # a pipeline: each command by itself
    with r.pipeline(transaction=False) as pipe:
        for n in range(300):
            pipe.rpush(INBOX, job(f"{key}-{n}"))
        pipe.rpush(INBOX, "{}")
        answers = pipe.execute(raise_on_error=False)
    assert answers[:300] == [1] * 300, answers
    assert isinstance(answers[300], redis.ResponseError), answers[300]
    # a transaction: all or none
    with r.pipeline() as pipe:
        pipe.rpush(INBOX, job(f"{key}-t"))
        pipe.ping()
        pipe.rpush(INBOX, job(f"{key}-u"), job(f"{key}-v"))
        assert pipe.execute() == [1, True, 2]
    with r.pipeline() as pipe:
        pipe.rpush(INBOX, job("python-none"))
        pipe.rpush(INBOX, "{}")
        error = refused(pipe.execute, "command [1]", "MALFORMED")
        assert isinstance(error, redis.exceptions.ExecAbortError), type(error)
    # large ones in large pipelines, and no answer is out of step
    with r.pipeline(transaction=False) as pipe:
        for n in range(64):
            pipe.rpush(INBOX, json.dumps({"kind": "test.job", "key": f"{key}-l{n}", "payload": {}}) + " " * 100_000)
        assert pipe.execute() == [1] * 64
    assert r.ping() is True
    r.close()
    for wrong in ("nonsense", None):
        error = refused(connect(wrong, protocol).ping)
        assert isinstance(error, redis.AuthenticationError), type(error)
print("all is well")
