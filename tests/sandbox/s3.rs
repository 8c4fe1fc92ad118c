//! S3: objects, conditions, sums, parts, lists, and signatures by the tests' own signer.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::bench::*;
use crate::signer::*;
use crate::wait;

const DEADLINE: Duration = Duration::from_secs(20);
const MIB: usize = 1024 * 1024;

async fn begin(bench: &Bench, place: &str) -> String {
    let ask = Ask::new(Method::POST, place).query("uploads", "");
    let begun = ask
        .with("x-amz-checksum-algorithm", "SHA256")
        .send(bench)
        .await;
    assert_eq!(begun.status, 200, "{}", begun.body);
    inner(&begun.body, "UploadId").to_owned()
}

async fn part(bench: &Bench, place: &str, id: &str, number: &str, bytes: Vec<u8>) -> Told {
    let sum = sum(&bytes);
    let ask = Ask::put(place, bytes)
        .query("partNumber", number)
        .query("uploadId", id);
    ask.with("x-amz-checksum-sha256", sum).send(bench).await
}

async fn complete(bench: &Bench, place: &str, id: &str, etags: &[&str]) -> Told {
    let parts: String = etags
        .iter()
        .enumerate()
        .map(|(n, etag)| {
            format!(
                "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>",
                n + 1
            )
        })
        .collect();
    let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let ask = Ask::new(Method::POST, place).query("uploadId", id);
    let ask = ask.with("if-none-match", "*");
    Ask {
        body: body.into_bytes(),
        ..ask
    }
    .send(bench)
    .await
}

async fn made(bench: &Bench) -> usize {
    bench.acts("op=object.put").await.len() + bench.acts("op=upload.complete").await.len()
}

#[tokio::test]
async fn an_object_is_put_once_and_given_back() {
    let bench = Bench::new().await;
    let (place, words) = ("shop/a folder/tea & cake ü.txt", b"words".to_vec());
    let ask = |body: Vec<u8>| {
        let (md5, sha) = (<md5::Md5 as md5::Digest>::digest(&body), sum(&body));
        Ask::put(place, body)
            .with("content-type", "text/plain")
            .with("content-md5", STANDARD.encode(md5))
            .with("x-amz-checksum-sha256", sha)
            .with("x-amz-meta-job", "42")
            .with("if-none-match", "*")
    };
    let put = ask(words.clone()).send(&bench).await;
    assert_eq!(put.status, 200, "{}", put.body);
    let etag = format!("\"{}\"", hex(&<md5::Md5 as md5::Digest>::digest(&words)));
    assert_eq!(put.header("etag"), etag);
    assert_eq!(put.header("x-amz-checksum-sha256"), sum(&words));
    let again = ask(b"other".to_vec()).send(&bench).await;
    assert_eq!(
        (again.status.as_u16(), again.code()),
        (412, "PreconditionFailed")
    );
    assert_eq!(made(&bench).await, 1);

    let head = Ask::new(Method::HEAD, place).with("x-amz-checksum-mode", "ENABLED");
    let head = head.send(&bench).await;
    assert_eq!(head.status, 200);
    assert_eq!(
        (head.header("content-length"), head.header("etag")),
        ("5", &*etag)
    );
    assert_eq!(
        (head.header("x-amz-meta-job"), head.header("content-type")),
        ("42", "text/plain")
    );
    assert_eq!(head.header("x-amz-checksum-sha256"), sum(&words));
    assert!(head.header("last-modified").ends_with(" GMT"));
    let got = Ask::get(place).send(&bench).await;
    assert_eq!((got.status.as_u16(), got.body.as_str()), (200, "words"));
    let some = Ask::get(place)
        .with("range", "bytes=1-3")
        .send(&bench)
        .await;
    assert_eq!((some.status.as_u16(), some.body.as_str()), (206, "ord"));
    assert_eq!(some.header("content-range"), "bytes 1-3/5");

    let key = format!("key={}", coded(place));
    let acts = bench.acts(&key).await;
    assert_eq!(
        (&acts[0]["media"][0]["bytes"], &acts[0]["id"]),
        (&json!(5), &json!(place))
    );
    assert_eq!(acts[0]["media"][0]["digest"], hex(&Sha256::digest(&words)));
    let wall = bench.client.get(bench.sandbox.url()).send().await;
    let wall = wall.expect("the wall").text().await.expect("text");
    assert!(
        wall.contains("<h2>Objects</h2>") && wall.contains("tea &amp; cake"),
        "{wall}"
    );

    assert_eq!(
        Ask::new(Method::DELETE, place).send(&bench).await.status,
        204
    );
    let gone = Ask::get(place).send(&bench).await;
    assert_eq!((gone.status.as_u16(), gone.code()), (404, "NoSuchKey"));
    assert_eq!(Ask::new(Method::HEAD, place).send(&bench).await.status, 404);
    assert_eq!(
        Ask::new(Method::HEAD, "shop").send(&bench).await.status,
        200
    );
    assert_eq!(
        Ask::new(Method::HEAD, "missing-shop")
            .send(&bench)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn signatures_are_checked() {
    let bench = Bench::new().await;
    let put = || Ask::put("shop/a", "x");
    let wrong = Ask {
        secret: "sandbox-bob",
        ..put()
    }
    .send(&bench)
    .await;
    assert_eq!(
        (wrong.status.as_u16(), wrong.code()),
        (403, "SignatureDoesNotMatch")
    );
    for key in ["expired", "no/such", "ü"] {
        let refused = Ask { key, ..put() }.send(&bench).await;
        assert!(
            matches!(refused.status.as_u16(), 400 | 403),
            "{key}: {}",
            refused.body
        );
    }
    let unknown = Ask {
        key: "expired-alice",
        ..put()
    }
    .send(&bench)
    .await;
    assert_eq!(unknown.code(), "InvalidAccessKeyId");
    for minutes in [-16, 16] {
        let at = Utc::now() + TimeDelta::minutes(minutes);
        let late = Ask { at, ..put() }.send(&bench).await;
        assert_eq!(
            (late.status.as_u16(), late.code()),
            (403, "RequestTimeTooSkewed")
        );
    }
    let ask = put();
    let lied = told(ask.request(&bench, &hex(&Sha256::digest("y")))).await;
    assert_eq!(
        (lied.status.as_u16(), lied.code()),
        (400, "XAmzContentSHA256Mismatch")
    );
    let ask = put();
    let open = ask
        .request(&bench, "UNSIGNED-PAYLOAD")
        .header("x-amz-meta-job", "1");
    let open = told(open).await;
    assert_eq!(
        (open.status.as_u16(), inner(&open.body, "HeadersNotSigned")),
        (403, "x-amz-meta-job")
    );
    let bare = bench
        .client
        .put(format!("{}/s3/shop/a", bench.sandbox.url()))
        .body("x");
    assert_eq!(told(bare).await.code(), "AccessDenied");
    let bad = put()
        .with("content-md5", STANDARD.encode([0u8; 16]))
        .send(&bench)
        .await;
    assert_eq!((bad.status.as_u16(), bad.code()), (400, "BadDigest"));
    let bad = put()
        .with("x-amz-checksum-sha256", sum(b"y"))
        .send(&bench)
        .await;
    assert_eq!((bad.status.as_u16(), bad.code()), (400, "BadDigest"));
    let other = put()
        .with("x-amz-checksum-crc32", "AAAAAA==")
        .send(&bench)
        .await;
    assert_eq!(
        (other.status.as_u16(), other.code()),
        (501, "NotImplemented")
    );
    assert_eq!(made(&bench).await, 0, "none of them did anything");
    assert_eq!(put().send(&bench).await.status, 200);
}

#[tokio::test]
async fn a_presigned_url_works_while_it_lives() {
    let bench = Bench::new().await;
    let url = Ask::put("shop/b", "").presigned(&bench, "600");
    let put = told(bench.client.put(&url).body("words")).await;
    assert_eq!(put.status, 200, "{}", put.body);
    let get = Ask::get("shop/b");
    let url = get.presigned(&bench, "600");
    assert_eq!(told(bench.client.get(&url)).await.body, "words");
    let other = url.replace("shop/b", "shop/c");
    assert_eq!(
        told(bench.client.get(other)).await.code(),
        "SignatureDoesNotMatch"
    );
    let short = get.presigned(&bench, "60");
    bench
        .post("/_sandbox/clock", "", json!({"advance_s": 61}))
        .await;
    let late = told(bench.client.get(short)).await;
    assert_eq!(
        (late.status.as_u16(), inner(&late.body, "Message")),
        (403, "Request has expired")
    );
    let public = Ask::put("public-shop/b", "words").send(&bench).await;
    assert_eq!(public.status, 200);
    let url = format!("{}/s3/public-shop/b", bench.sandbox.url());
    assert_eq!(told(bench.client.get(&url)).await.body, "words");
    assert_eq!(told(bench.client.delete(url)).await.status, 403);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_ends_once() {
    let bench = Bench::new().await;
    let place = "shop/film.mp4";
    let id = begin(&bench, place).await;
    let (one, two) = (vec![1u8; 5 * MIB], vec![2u8; 7]);
    let first = part(&bench, place, &id, "1", one.clone()).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let bench = bench.restart().await;
    let second = part(&bench, place, &id, "2", two.clone()).await;
    let parts = Ask::get(place).query("uploadId", &id).send(&bench).await;
    assert_eq!(parts.body.matches("<Part>").count(), 2, "{}", parts.body);
    assert_eq!(inner(&parts.body, "ChecksumSHA256"), sum(&one));
    let page = Ask::get(place)
        .query("uploadId", &id)
        .query("max-parts", "1")
        .send(&bench)
        .await;
    assert_eq!(
        (
            inner(&page.body, "IsTruncated"),
            inner(&page.body, "NextPartNumberMarker")
        ),
        ("true", "1")
    );
    let begun = Ask::get("shop")
        .query("uploads", "")
        .query("prefix", "fi")
        .send(&bench)
        .await;
    assert_eq!(inner(&begun.body, "UploadId"), id);

    let etags = [first.header("etag"), second.header("etag")];
    let lost = complete(&bench, place, &id, &["\"0\"", etags[1]]).await;
    assert_eq!((lost.status.as_u16(), lost.code()), (400, "InvalidPart"));
    let done = complete(&bench, place, &id, &etags).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(
        inner(&done.body, "ETag").ends_with("-2&quot;"),
        "{}",
        done.body
    );
    let sums = [Sha256::digest(&one), Sha256::digest(&two)].concat();
    assert_eq!(
        inner(&done.body, "ChecksumSHA256"),
        format!("{}-2", sum(&sums))
    );
    let again = complete(&bench, place, &id, &etags).await;
    assert_eq!((again.status.as_u16(), again.code()), (404, "NoSuchUpload"));
    assert_eq!(made(&bench).await, 1);
    let act = &bench.acts("op=upload.complete").await[0];
    assert_eq!(
        (&act["detail"]["upload"], &act["media"][0]["bytes"]),
        (&json!(id), &json!(5 * MIB + 7))
    );
    let whole = [one, two].concat();
    assert_eq!(act["media"][0]["digest"], hex(&Sha256::digest(&whole)));
    let range = format!("bytes={}-", 5 * MIB);
    let tail = Ask::get(place).with("range", range).send(&bench).await;
    assert_eq!(tail.body.as_bytes(), [2u8; 7]);
    let left = std::fs::read_dir(bench.dir.path().join("parts"))
        .expect("there")
        .count();
    assert_eq!(left, 0, "parts of what is complete are gone");
}

#[tokio::test]
async fn an_upload_is_checked_and_aborted() {
    let bench = Bench::new().await;
    let place = "shop/small";
    let id = begin(&bench, place).await;
    let small = part(&bench, place, &id, "1", vec![1; 10]).await;
    let last = part(&bench, place, &id, "2", vec![2; 10]).await;
    let etags = [small.header("etag"), last.header("etag")];
    assert_eq!(
        complete(&bench, place, &id, &etags).await.code(),
        "EntityTooSmall"
    );
    let big = part(&bench, place, &id, "1", vec![1; 5 * MIB]).await;
    let more = part(&bench, place, &id, "2", vec![2; 6 * MIB]).await;
    let end = part(&bench, place, &id, "3", vec![3; 1]).await;
    let etags = [big.header("etag"), more.header("etag"), end.header("etag")];
    let uneven = complete(&bench, place, &id, &etags).await;
    assert!(
        uneven.body.contains("same length"),
        "as R2 wants it: {}",
        uneven.body
    );
    assert_eq!(
        part(&bench, place, &id, "0", vec![1]).await.code(),
        "InvalidArgument"
    );
    assert_eq!(
        part(&bench, "shop/other", &id, "1", vec![1]).await.code(),
        "NoSuchUpload"
    );
    assert_eq!(
        complete(&bench, place, &id, &[]).await.code(),
        "MalformedXML"
    );
    let abort = || Ask::new(Method::DELETE, place).query("uploadId", &id);
    assert_eq!(abort().send(&bench).await.status, 204);
    assert_eq!(abort().send(&bench).await.code(), "NoSuchUpload");
    assert_eq!(
        part(&bench, place, &id, "1", vec![1]).await.code(),
        "NoSuchUpload"
    );
    let list = Ask::get("shop").query("uploads", "").send(&bench).await;
    assert!(!list.body.contains("<Upload>"), "{}", list.body);
    assert_eq!(made(&bench).await, 0);

    let id = begin(&bench, place).await;
    let one = part(&bench, place, &id, "1", vec![1; 3]).await;
    assert_eq!(Ask::put(place, "first").send(&bench).await.status, 200);
    let beaten = complete(&bench, place, &id, &[one.header("etag")]).await;
    assert_eq!(beaten.code(), "PreconditionFailed");
}

#[tokio::test]
async fn lists_have_pages_and_folders() {
    let bench = Bench::new().await;
    for key in ["shop/a/1", "shop/a/2", "shop/b", "shop/c&d", "else/x"] {
        assert_eq!(Ask::put(key, "x").send(&bench).await.status, 200);
    }
    let list = |query: Vec<(&'static str, &'static str)>| {
        let mut ask = Ask::get("shop").query("list-type", "2");
        ask.query.extend(query);
        ask
    };
    let all = list(vec![]).send(&bench).await;
    assert_eq!(
        (
            all.body.matches("<Contents>").count(),
            inner(&all.body, "KeyCount")
        ),
        (4, "4")
    );
    assert!(all.body.contains("<Key>c&amp;d</Key>"));
    let folders = list(vec![("delimiter", "/"), ("encoding-type", "url")])
        .send(&bench)
        .await;
    assert_eq!(
        inner(inner(&folders.body, "CommonPrefixes"), "Prefix"),
        "a/"
    );
    assert!(
        folders.body.contains("<Key>c%26d</Key>"),
        "{}",
        folders.body
    );
    let mut token = String::new();
    let mut seen = 0;
    loop {
        let mut ask = list(vec![("max-keys", "3")]);
        if !token.is_empty() {
            ask.query.push(("continuation-token", &token));
        }
        let page = ask.send(&bench).await;
        seen += page.body.matches("<Contents>").count();
        let next = inner(&page.body, "NextContinuationToken").to_owned();
        match inner(&page.body, "IsTruncated") {
            "true" => token = next,
            _ => break,
        }
    }
    assert_eq!(seen, 4);
    let odd = Ask::get("shop/b").query("acl", "").send(&bench).await;
    assert_eq!((odd.status.as_u16(), odd.code()), (501, "NotImplemented"));
}

#[tokio::test]
async fn faults_are_told_in_xml_and_the_log_holds_the_truth() {
    let bench = Bench::new().await;
    for (fault, status, code, acted) in [
        ("refuse", 400, "InvalidRequest", 0),
        ("403", 403, "AccessDenied", 0),
        ("429", 429, "SlowDown", 0),
        ("503", 503, "SlowDown", 0),
        ("refuse status=409", 409, "ConditionalRequestConflict", 0),
        ("500 status=200", 200, "InternalError", 0),
        ("act_500", 500, "InternalError", 1),
        ("act_500 status=200", 200, "InternalError", 1),
        ("act_refuse", 412, "PreconditionFailed", 1),
    ] {
        let before = made(&bench).await;
        let place = format!("shop/[[fault:{fault}]]");
        let bent = Ask::put(&place, "x").send(&bench).await;
        assert_eq!(
            (bent.status.as_u16(), bent.code()),
            (status, code),
            "{fault}"
        );
        assert_eq!(made(&bench).await - before, acted, "{fault}");
    }
    for fault in ["act_late delay_ms=300", "act_reset", "act_truncate"] {
        let before = made(&bench).await;
        let place = format!("shop/[[fault:{fault}]]");
        let ask = Ask::put(&place, "x");
        let payload = hex(&Sha256::digest("x"));
        let whole = async { ask.request(&bench, &payload).send().await?.bytes().await };
        if fault != "act_truncate" {
            whole.await.expect_err(fault);
        } else {
            // an answer to PUT has no body that could be cut, but its length is a lie
            let _ = whole.await;
        }
        wait::until("the act", DEADLINE, async || made(&bench).await > before).await;
    }
    let place = "shop/film [[fault:act_500 status=200]] [[fault:503 op=upload.part]]";
    let id = begin(&bench, place).await;
    assert_eq!(part(&bench, place, &id, "1", vec![1]).await.status, 503);
    let one = part(&bench, place, &id, "1", vec![1]).await;
    let lied = complete(&bench, place, &id, &[one.header("etag")]).await;
    assert_eq!((lied.status.as_u16(), lied.code()), (200, "InternalError"));
    assert_eq!(
        Ask::new(Method::HEAD, place).send(&bench).await.status,
        200,
        "it is there"
    );
    bench
        .script(json!({"platform": "s3", "op": "object.get", "fault": "act_truncate"}))
        .await;
    assert_eq!(
        Ask::put("shop/long", vec![7; 3 * MIB])
            .send(&bench)
            .await
            .status,
        200
    );
    let ask = Ask::get("shop/long");
    let cut = ask.request(&bench, &hex(&Sha256::digest(""))).send().await;
    cut.expect("a head").bytes().await.expect_err("cut");
}

#[tokio::test]
async fn a_body_that_is_cut_makes_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::new().await;
    let ask = Ask::put("shop/cut", "whole");
    let host = bench.sandbox.addr().to_string();
    let (names, signature) = ask.signature(&host, &[], "UNSIGNED-PAYLOAD");
    let (day, stamp) = (ask.at.format("%Y%m%d"), ask.at.format("%Y%m%dT%H%M%SZ"));
    let head = format!(
        "PUT /s3/shop/cut HTTP/1.1\r\nHost: {host}\r\nx-amz-date: {stamp}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\nContent-Length: 5\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=alice/{day}/auto/s3/aws4_request, SignedHeaders={names}, Signature={signature}\r\n\r\nwho"
    );
    let mut stream = tokio::net::TcpStream::connect(bench.sandbox.addr())
        .await
        .expect("connects");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut answer = String::new();
    // what the sandbox says to a peer that is gone doesn't matter
    let _ = stream.read_to_string(&mut answer).await;
    wait::until("the request", DEADLINE, async || {
        let (_, seen) = bench.get("/_sandbox/requests?op=object.put", "").await;
        seen[0]["status"] == 400
    })
    .await;
    assert_eq!(made(&bench).await, 0);
    let spool = bench.dir.path().join("spool");
    wait::until("the leftovers to go", DEADLINE, async || {
        std::fs::read_dir(&spool).expect("there").count() == 0
    })
    .await;
}
