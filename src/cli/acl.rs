//! `presswork check --print-acl`: who may do what in Redis and in PostgreSQL, ready to be pasted.

use serde::Serialize;

use super::cx::Cx;
use super::out::CliError;
use crate::config::Store;
use crate::ledger::postgres::producers_role;
use crate::queue::redis::{PASSWORD, User};
use crate::stores;

/// Everybody who has to be let in.
#[derive(Debug, Serialize)]
struct Everybody {
    /// None where the queue isn't in Redis.
    redis: Vec<User>,
    /// Statements of an administrator; none where the ledger isn't PostgreSQL.
    sql: Vec<String>,
}

/// Prints it. No server is asked, and no secret shown.
///
/// # Errors
/// When the address of the queue can't be used.
pub fn print(cx: &Cx) -> Result<(), CliError> {
    let redis = stores::redis_users(&cx.config);
    let redis = redis.map_err(|e| CliError::usage(format!("queue.url: {e:#}")))?;
    let sql = match cx.config.ledger {
        Store::Server(_) => statements(),
        Store::Sqlite(_) | Store::Memory => Vec::new(),
    };
    let all = Everybody { redis, sql };
    if cx.out.json {
        return cx.out.document(&all);
    }
    cx.out.line(&in_redis(&all.redis))?;
    cx.out.line(&in_sql(&all.sql))
}

fn statements() -> Vec<String> {
    vec![
        producers_role().to_owned(),
        format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}';"),
        "GRANT presswork_producer TO app;".to_owned(),
    ]
}

fn in_redis(users: &[User]) -> String {
    if users.is_empty() {
        return "# Redis: the queue isn't in one (queue.url), so nobody has to be let in\n"
            .to_owned();
    }
    let mut told = format!(
        "# Redis: for redis.conf as it stands; for the file of its access list (aclfile) without the lines that\n\
         # begin with #; to a server that runs, each as ACL SETUSER NAME ... in redis-cli. In the place of each\n\
         # {PASSWORD} a long password of its own: ACL GENPASS makes one. A producer can take any receipt whose\n\
         # token it knows: let tokens be random.\n"
    );
    for user in users {
        told.push_str(&format!("\n# {}\n{}\n", user.about, user.line()));
    }
    told.push_str(
        "\n# Who shows no password, or a wrong one, is `default`, and may do everything until this is said, too\n\
         # (first see that all others connect as users of their own):\n\
         # user default off\n",
    );
    told
}

fn in_sql(statements: &[String]) -> String {
    let [role, rest @ ..] = statements else {
        return "-- PostgreSQL: the ledger isn't in one (ledger.url), so there is no SQL door"
            .to_owned();
    };
    format!(
        "-- PostgreSQL: the role of producers, who may call presswork.enqueue and nothing else. Migrations make it\n\
         -- where they may; where they mayn't, an administrator says this, in the ledger's database:\n\
         {role}\n\n\
         -- An application's own user (one that is there already needs the grant alone):\n\
         {}",
        rest.join("\n")
    )
}
