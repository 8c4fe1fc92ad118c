"""moto's S3 with authentication on, for tests/upload: a user, a key, a bucket, and a door for the test.

    moto_server.py PORT

Prints one line of JSON with the key once it serves. moto verifies signatures (with botocore's own code)
against the digest that a request claims; that the body has this digest, which S3 verifies too, is done
here. Below /_test/ the test looks behind the scenes, and asks for faults of a key:

    GET  /_test/state                 uploads, objects and requests so far
    POST /_test/fault  {key, fault}   the next fitting request of this key: "corrupt" (a byte of its body
                                      changes on the way), "error_in_200" (Complete), "slow_down" (PUT)
    POST /_test/begin  {key, age_s}   another client begins an upload, so long ago
    POST /_test/put    {key, text}    another client puts an object
"""

import hashlib
import io
import json
import logging
import os
import re
import sys
import threading
import time
from urllib.parse import parse_qs, unquote

PORT = int(sys.argv[1])
os.environ["MOTO_PORT"] = str(PORT)
logging.getLogger("werkzeug").setLevel(logging.ERROR)

from moto import settings  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.iam.models import iam_backends  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import FakeMultipart, s3_backends  # noqa: E402
from werkzeug.serving import run_simple  # noqa: E402

BUCKET = "films"
iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
s3 = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
iam.create_user("us-east-1", "presswork")
allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
iam.put_user_policy("presswork", "all", json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
key = iam.create_access_key("presswork")
bucket = s3.create_bucket(BUCKET, "us-east-1")
settings.INITIAL_NO_AUTH_ACTION_COUNT = 0

lock = threading.Lock()
requests = []
faults = {}
# moto says 2010 of every upload
born = {}


def state():
    objects = {
        name: {
            "sha256": hashlib.sha256(it.value).hexdigest(),
            "etag": it.etag,
            "metadata": dict(it.metadata),
        }
        for name, it in bucket.keys.items()
    }
    uploads = [{"key": it.key_name, "id": it.id} for it in bucket.multiparts.values()]
    return {"objects": objects, "uploads": uploads, "requests": requests}


def told(method, path, asked):
    if path == "/_test/state":
        return state()
    if path == "/_test/fault":
        faults.setdefault(asked["key"], []).append(asked["fault"])
    elif path == "/_test/begin":
        upload = FakeMultipart(asked["key"], {}, DEFAULT_ACCOUNT_ID, "us-east-1")
        bucket.multiparts[upload.id] = upload
        born[upload.id] = time.time() - asked["age_s"]
        return {"id": upload.id}
    elif path == "/_test/put":
        s3.put_object(BUCKET, asked["key"], asked["text"].encode())
    return {}


def xml(start_response, status, code, *more):
    body = f"<Error><Code>{code}</Code><Message>{code} it is</Message></Error>".encode()
    size = ("content-length", str(len(body)))
    start_response(status, [("content-type", "application/xml"), size, *more])
    return [body]


def fault_of(name, method, query):
    fitting = {"corrupt": method == "PUT", "slow_down": method == "PUT"}
    fitting["error_in_200"] = method == "POST" and "uploadId" in query
    for fault in faults.get(name, []):
        if fitting[fault]:
            faults[name].remove(fault)
            return fault
    return None


def dated(page):
    def upload(found):
        at = born.get(re.search("<UploadId>(.*?)<", found[0])[1], time.time())
        text = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
        return re.sub("<Initiated>.*?<", f"<Initiated>{text}<", found[0])

    return re.sub("<Upload>.*?</Upload>", upload, page.decode(), flags=re.S).encode()


class Door:
    """What stands before moto."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(size)
        if path.startswith("/_test/"):
            with lock:
                answer = json.dumps(told(method, path, json.loads(body or b"{}"))).encode()
            start_response("200 OK", [("content-length", str(len(answer)))])
            return [answer]
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        name = unquote(path).removeprefix(f"/{BUCKET}/")
        about = {
            "method": method,
            "key": name,
            "query": {k: v[0] for k, v in query.items()},
            "bytes": len(body),
            "status": 0,
        }
        with lock:
            requests.append(about)
            fault = fault_of(name, method, query)

        def answered(status, headers, *more):
            about["status"] = int(status.split(" ")[0])
            return start_response(status, headers, *more)

        if len(body) < size:
            return xml(answered, "400 Bad Request", "IncompleteBody")
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "slow_down":
            return xml(answered, "503 Slow Down", "SlowDown", ("retry-after", "1"))
        if fault == "error_in_200":
            return xml(answered, "200 OK", "InternalError")
        claimed = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        if hashlib.sha256(body).hexdigest() != claimed:
            return xml(answered, "400 Bad Request", "XAmzContentSHA256Mismatch")
        environ["wsgi.input"] = io.BytesIO(body)
        if "uploads" not in query:
            return self.app(environ, answered)
        if method == "GET":
            head = []
            page = dated(b"".join(self.app(environ, lambda *it: head.extend(it))))
            size = ("Content-Length", str(len(page)))
            answered(head[0], [it for it in head[1] if it[0].lower() != size[0].lower()] + [size])
            return [page]
        page = self.app(environ, answered)
        with lock:
            for id in bucket.multiparts:
                born.setdefault(id, time.time())
        return page


class Quiet(MotoRequestHandler):
    """Says nothing of each request."""

    def log_request(self, *_):
        pass


print(json.dumps({"id": key.access_key_id, "secret": key.secret_access_key}), flush=True)
app = Door(DomainDispatcherApplication(create_backend_app))
run_simple("127.0.0.1", PORT, app, threaded=True, request_handler=Quiet)
