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

use crate::config::Account;
use crate::outcome::Failure;

pub use verdict::{CallError, Progressed};

/// Reads as an account, once, what changes nothing and costs nothing: whether its platform is there
/// and takes its secret. What it found, for people.
///
/// # Errors
/// What was refused, or lost: it can be asked again.
pub async fn ping(
    http: &http::Http,
    account: &Account,
    deadline: Duration,
) -> Result<String, Failure> {
    let found = match account.platform.as_str() {
        "openai" => openai::ping(http, account, deadline).await,
        "mastodon" => {
            let it = mastodon::Mastodon {
                http,
                account,
                deadline,
            };
            it.who().await
        }
        "bluesky" => {
            let it = bluesky::Bluesky {
                http,
                account,
                deadline,
            };
            it.session().await.map(|it| format!("@{}", it.handle))
        }
        "x" => {
            let it = x::X {
                http,
                account,
                deadline,
            };
            it.who().await.map(|it| format!("@{}", it.username))
        }
        "instagram" => {
            let it = instagram::Instagram {
                http,
                account,
                deadline,
            };
            it.who().await
        }
        "s3" | "gcs" => {
            let it = objects::bucket::Bucket {
                http,
                account,
                deadline,
            };
            it.who().await
        }
        "http" => {
            let it = endpoint::Endpoint {
                http,
                account,
                deadline,
            };
            it.who().await
        }
        "folder" => objects::folder::Folder { account }.who().await,
        other => {
            let message = format!("there is no adapter for platform `{other}`");
            return Err(Failure::permanent("no_platform", message));
        }
    };
    found.map_err(CallError::harmless)
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
