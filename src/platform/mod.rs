//! What the world looks like from here: one HTTP client, one table of what an answer means, and a
//! file a platform. An adapter knows only its service and the client.

mod body;
pub mod gate;
pub mod http;
pub mod limits;
pub mod verdict;
mod session;
pub mod address;
pub mod fetch;
pub mod text;
pub mod facets;

pub mod openai;
pub mod openai_images;
pub mod openai_responses;
pub mod mastodon;
pub mod bluesky;
pub mod x_words;
pub mod x;
pub mod instagram;
pub mod objects;
pub mod endpoint;
pub mod oauth;
#[cfg(test)]
mod corpora;

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use crate::config::Account;
use crate::outcome::{Class, Failure};
use crate::person::{Person, Whose};
use crate::telemetry::redact;

pub use verdict::{CallError, Progressed};

/// What a platform says of an account that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For people.
    pub told: String,
    /// Who it is there, where the platform tells.
    pub person: Option<Person>,
}

impl From<String> for Found {
    fn from(told: String) -> Self {
        let person = None;
        Self { told, person }
    }
}

impl Found {
    fn of(id: &str, name: &str) -> Self {
        Self {
            told: format!("@{name}"),
            person: Person::told(id, name),
        }
    }
}

/// Reads as an account, once, what changes nothing and costs nothing: whether its platform is there
/// and takes its secret.
///
/// # Errors
/// What was refused, or lost: it can be asked again.
pub async fn ping(
    http: &http::Http,
    account: &Account,
    deadline: Duration,
) -> Result<Found, Failure> {
    let found = match account.platform.as_str() {
        "openai" => openai::ping(http, account, deadline).await.map(Found::from),
        "mastodon" => {
            let it = mastodon::Mastodon {
                http,
                account,
                deadline,
            };
            let who = it.who().await;
            who.map(|it| Found::of(&it.id, &it.acct))
        }
        "bluesky" => {
            let it = bluesky::Bluesky {
                http,
                account,
                deadline,
            };
            let session = it.session().await;
            session.map(|it| Found::of(&it.did, &it.handle))
        }
        "x" => {
            let it = x::X {
                http,
                account,
                deadline,
            };
            let who = it.who().await;
            who.map(|it| Found::of(&it.id, &it.username))
        }
        "instagram" => {
            let it = instagram::Instagram {
                http,
                account,
                deadline,
            };
            let who = it.who().await;
            who.map(|it| Found::of(&it.id, &it.username))
        }
        "s3" | "gcs" => {
            let it = objects::bucket::Bucket {
                http,
                account,
                deadline,
            };
            it.who().await.map(Found::from)
        }
        "http" => {
            let it = endpoint::Endpoint {
                http,
                account,
                deadline,
            };
            it.who().await.map(Found::from)
        }
        "folder" => {
            let it = objects::folder::Folder { account };
            it.who().await.map(Found::from)
        }
        other => {
            let message = format!("there is no adapter for platform `{other}`");
            return Err(Failure::permanent("no_platform", message));
        }
    };
    found.map_err(CallError::harmless)
}

/// Asks whose an account's credentials are: within `deadline` each time, and three times where that may
/// help. Where the platform doesn't tell, nothing is asked.
pub async fn whose(http: &http::Http, account: &Account, deadline: Duration) -> Whose {
    if !matches!(
        account.platform.as_str(),
        "mastodon" | "bluesky" | "x" | "instagram"
    ) {
        return Whose::Untold;
    }
    let waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_times(2);
    let asked = async || ping(http, account, deadline).await;
    let asked = asked.retry(waits).when(|e| e.class == Class::Transient);
    match asked.await {
        Ok(Found { person, .. }) => person.map_or_else(
            || Whose::Unknown(format!("{} told no id", account.platform)),
            Whose::Of,
        ),
        Err(e) => Whose::Unknown(redact::text(&e.to_string()).into_owned()),
    }
}

/// Asks the server of an account something harmless, once: whether it works. One that is asked nothing,
/// since there is nothing to ask, does.
pub async fn works(http: &http::Http, account: &Account, deadline: Duration) -> bool {
    let heard = Arc::new(limits::Heard::default());
    let http = http.heard_by(heard.clone());
    // whether it takes the secret is another question
    let _ = ping(&http, account, deadline).await;
    if let Some(works) = heard.works() {
        return works;
    }
    // a session that is kept needs no request
    let call = http::Call::head(account.base_url.clone(), deadline);
    let _ = http.send(&call).await;
    heard.works().unwrap_or(true)
}
