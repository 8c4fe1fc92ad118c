//! Files of jobs: each row goes in, a bad one stops no other, and the same file again adds nothing.

use std::fs;

use serde_json::Value;

use super::{EMBEDDED, Transcript, code, said};

async fn jobs(it: &Transcript) -> Vec<Value> {
    let output = it
        .home
        .cli(&["jobs", "list", "--json", "--limit", "1000"])
        .await;
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_jobs_is_taken_in_once() {
    let mut it = Transcript::new(EMBEDDED);
    it.home.cli(&["migrate"]).await;
    let file = |name: &str, text: &str| fs::write(it.home.path().join(name), text).unwrap();
    file(
        "jobs.jsonl",
        "{\"kind\": \"test.job\", \"payload\": {\"sleep_ms\": 1}, \"key\": \"a\"}\n\
         # a word\n\
         {\"kind\": \"test.job\", \"payload\": {\"sleep_ms\": 2}}\n\
         {\"kind\": \"test.job\", \"payload\": {\"sleep_ms\": 2}}\n\
         {\"kind\": \"test.jb\", \"payload\": {}}\n\
         {\"kind\": \"test.job\", \"payload\": {\"sleep_ms\": 3}, \"key\": \"a\"}\n\
         not even JSON\n",
    );
    file(
        "jobs.csv",
        "sleep_ms,result,order,priority,labels.shop\n\
         5,\"a, \"\"b\"\"\",o-1,high,7\n\
         soon,,o-2,,\n\
         6,7,o-3,,\n\
         6,,,,\n\
         7,,o-4,urgent,\n",
    );
    file("wrong.csv", "slep_ms,priorty\n1,low\n");
    let first = it.run(&["enqueue", "--jsonl", "jobs.jsonl"]).await;
    assert_eq!(code(&first), 2);
    assert_eq!(jobs(&it).await.len(), 3);
    it.run(&["enqueue", "--jsonl", "jobs.jsonl"]).await;
    assert_eq!(jobs(&it).await.len(), 3);
    let csv = [
        "enqueue",
        "test.job",
        "--csv",
        "jobs.csv",
        "--key-column",
        "order",
    ];
    it.run(&csv).await;
    let taken = jobs(&it).await;
    assert_eq!(taken.len(), 5);
    let first = taken.iter().find(|it| it["key"] == "o-1").unwrap();
    let shown = it
        .home
        .cli(&["jobs", "show", first["id"].as_str().unwrap(), "--json"])
        .await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["payload"]["sleep_ms"], 5, "{shown:#}");
    assert_eq!(shown["payload"]["result"], "a, \"b\"");
    assert_eq!(
        (&first["priority"], &first["labels"]["shop"]),
        (&"high".into(), &"7".into())
    );
    for rejects in ["jobs.rejects.jsonl", "jobs.rejects.csv"] {
        let text = fs::read_to_string(it.home.path().join(rejects)).unwrap();
        it.text.push_str(&format!("--- {rejects}\n{text}\n"));
    }
    // mended, they are taken in like any other file
    let path = it.home.path().join("jobs.rejects.csv");
    let text = fs::read_to_string(&path).unwrap();
    let text = text
        .replace("soon", "8")
        .replace("urgent", "low")
        .replace("6,,,,", "6,,o-5,,");
    fs::write(&path, text).unwrap();
    let mended = [
        "enqueue",
        "test.job",
        "--csv",
        "jobs.rejects.csv",
        "--key-column",
        "order",
    ];
    let mended = it.run(&mended).await;
    assert_eq!(code(&mended), 0);
    assert_eq!(jobs(&it).await.len(), 8);
    it.run(&[&csv[..], &["--json"]].concat()).await;
    assert_eq!(jobs(&it).await.len(), 8);
    it.run(&["enqueue", "test.job", "--csv", "wrong.csv"]).await;
    it.run(&["enqueue", "--csv", "jobs.csv"]).await;
    it.run(&["enqueue", "test.job", "--jsonl", "nope.jsonl"])
        .await;
    it.run_with(
        &["enqueue", "test.job", "--jsonl", "-", "--priority", "low"],
        "{\"payload\": {}}\n",
    )
    .await;
    it.matches("files");
}

/// What was taken in before the backlog was full stays, and the same command goes on later.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_takes_the_rest_later() {
    let it =
        Transcript::new("[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[inbox]\nbacklog_max = 3\n");
    it.home.cli(&["migrate"]).await;
    let rows: String = (0..5)
        .map(|n| format!("{{\"payload\": {{\"sleep_ms\": {n}}}}}\n"))
        .collect();
    fs::write(it.home.path().join("jobs.jsonl"), rows).unwrap();
    let args = ["--json", "enqueue", "test.job", "--jsonl", "jobs.jsonl"];
    // the bound is looked at before a batch, not at each row
    let output = it.home.cli(&args).await;
    assert_eq!(code(&output), 0, "{}", said(&output.stderr));
    let output = it.home.cli(&args).await;
    assert_eq!(code(&output), 4);
    let told = said(&output.stderr);
    assert!(
        told.contains("at its bound of 3") && told.contains("goes on"),
        "{told}"
    );
    assert_eq!(jobs(&it).await.len(), 5);
}
