//! Servers of other makes and versions: the whole path on each.

use crate::kit::postgres::Postgres;
use crate::kit::redis::Redis;
use crate::{Case, queue, said};

/// Jobs over HTTP and by the inbox, from the first migration to the last settlement; the server is
/// started again amid them.
async fn whole_path(postgres: &Postgres, redis: &Redis) {
    let ledger = postgres.create_database().await;
    let mut case = Case::new(&ledger, &redis.url()).await;
    let (host, daemon) = case.host().await;
    case.load(&host, 20).await;
    let inbox = queue(&redis.url()).inbox();
    let entries: Vec<Vec<u8>> = (0..8)
        .map(|_| case.job().to_string().into_bytes())
        .collect();
    inbox.push(&entries).await.expect("the inbox takes them");
    case.all_well().await;
    let told = said(&daemon, "filled anew", 1);
    told.await;
    redis.restart();
    said(&daemon, "filled anew", 2).await;
    case.load(&host, 10).await;
    case.all_well().await;
    let check = host.home.cli(&["check"]).await;
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(
        check.status.success() && !said.contains("older than"),
        "{said}"
    );
}

async fn on_postgres(major: u32) {
    let Some(postgres) = Postgres::start_version(major) else {
        println!(
            "skipped: PostgreSQL {major} isn't here: `./scripts/test` installs it where it can"
        );
        return;
    };
    let version = "SHOW server_version";
    println!(
        "{}",
        postgres.asked(&postgres.url("postgres"), version).await
    );
    whole_path(&postgres, &Redis::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_postgres() {
    on_postgres(14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_postgres() {
    on_postgres(18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_in_the_place_of_redis() {
    let Some(valkey) = Redis::start_valkey(&[]) else {
        println!("skipped: Valkey isn't here: `./scripts/test` installs it where it can");
        return;
    };
    assert!(
        valkey
            .cli(&["INFO", "server"])
            .contains("server_name:valkey")
    );
    whole_path(Postgres::shared(), &valkey).await;
}
