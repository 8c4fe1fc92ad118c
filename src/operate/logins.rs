//! Logins: a person grants an app access to an account, which is made, or gets other credentials and goes on.

use std::time::Duration;

use chrono::TimeDelta;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::accounts::{self, Others, Wanted};
use super::deed::{By, Refused};
use super::persons;
use crate::account::{Credentials, Kept, State};
use crate::config::words::PLATFORMS;
use crate::config::{Config, kept};
use crate::json::did_you_mean;
use crate::ledger::Ledger;
use crate::oauth::begun::{Begun, Ended, digest};
use crate::oauth::login::{LASTS, Login, Returned};
use crate::oauth::{Client, Grant, Verdict, What};
use crate::person::Whose;
use crate::platform::http::Http;
use crate::platform::oauth::ask;
use crate::vault::{Place, Unsealed};

/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What pages at the end of a login may do: nothing but look as they do.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page that says one thing to a person at the end of a login.
pub fn page(told: &str) -> String {
    let mut text = String::with_capacity(told.len());
    for c in told.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            c => text.push(c),
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Presswork</title><style>body{{font:1.1em/1.5 sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}</style></head><body><h1>Presswork</h1><p>{text}</p><p>You may close this window.</p></body></html>"
    )
}

/// A login that may begin: what it makes, and by which app.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The account, whole: of one that is there, as it is.
    pub wanted: Wanted,
    /// The name of its `[oauth.NAME]`.
    pub client: String,
    /// Whether the account may become another person's.
    pub replaces: bool,
}

/// A login that has ended well.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// The account as it is now.
    pub account: Kept,
    /// For people.
    pub told: String,
}

/// What a person brought back.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'a> {
    /// The code.
    pub code: &'a SecretString,
    /// What the challenge was made of.
    pub verifier: Option<&'a SecretString>,
    /// The very address that the person was sent back to.
    pub redirect: &'a Url,
}

fn unfit<T>(told: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Unfit(told.into()))
}

/// The client of a name.
///
/// # Errors
/// When `jobs.toml` has none.
pub fn client<'a>(config: &'a Config, name: &str) -> Result<&'a Client, Refused> {
    let found = config.oauth.get(name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, config.oauth.keys().map(String::as_str));
        let there: Vec<&str> = config.oauth.keys().map(String::as_str).collect();
        Refused::Missing(match there.is_empty() {
            true => format!(
                "there is no [oauth.{name}] in jobs.toml, nor any other: register an app with the platform, and name it there"
            ),
            false => format!(
                "there is no [oauth.{name}] in jobs.toml{near}; there are {}",
                there.join(", ")
            ),
        })
    })
}

/// Looks at everything that could stand in the way, before a person goes to the browser.
///
/// # Errors
/// What stands in the way, and what to do about it.
pub async fn plan(
    ledger: &dyn Ledger,
    config: &Config,
    (name, client_name): (&str, &str),
    wanted: Wanted,
) -> Result<Plan, Refused> {
    let facts = client(config, client_name)?.facts();
    if config.vault.first().is_none() {
        return unfit(Unsealed::NoKey.to_string());
    }
    let mut wanted = Wanted {
        name: name.to_owned(),
        ..wanted
    };
    let said = Some(wanted.platform.as_str()).filter(|it| !it.is_empty());
    let platform = said.or(facts.platform).map(str::to_owned);
    if let Some(was) = ledger.account(name).await? {
        if let Some(it) = platform.filter(|it| *it != was.platform) {
            return unfit(format!(
                "account `{name}` is one of {}, and this login would give it a token of {it}: take another name, or another --client",
                was.platform
            ));
        }
        if wanted.tenant.is_some() && wanted.tenant != was.tenant {
            return unfit(format!(
                "account `{name}` is there already, and another tenant's: take another name"
            ));
        }
        if !wanted.settings.is_empty() || !wanted.label.is_empty() {
            return unfit(format!(
                "account `{name}` is there already and keeps its settings: leave --set and --label out"
            ));
        }
        wanted.platform = was.platform;
        wanted.tenant = was.tenant;
    } else {
        let Some(platform) = platform else {
            return unfit(format!(
                "{} has several platforms: name the account's by --platform, one of {}",
                facts.name,
                PLATFORMS.join(", ")
            ));
        };
        wanted.platform = platform;
        accounts::check_new(config, &wanted)?;
        // what it will hold isn't known yet
        let any = Credentials::of("a-token-that-is-to-come".into());
        kept::account(name, &wanted.platform, &wanted.settings, &any).map_err(Refused::Unfit)?;
    }
    Ok(Plan {
        wanted,
        client: client_name.to_owned(),
        replaces: false,
    })
}

/// Writes a login down that is ended elsewhere, by who brings its state back. What is looked up by, for who
/// waits for its end.
///
/// # Errors
/// When it can't be sealed, or the ledger is away.
pub async fn begin(
    ledger: &dyn Ledger,
    config: &Config,
    plan: &Plan,
    login: &Login,
    by: &By,
) -> Result<Vec<u8>, Refused> {
    let digest = digest(&login.state);
    let seal = |it: &SecretString| {
        let row = row(&digest);
        config
            .vault
            .seal(place(&row), it.expose_secret().as_bytes())
    };
    let verifier = login.verifier.as_ref().map(seal).transpose();
    let begun = Begun {
        digest: digest.clone(),
        account: plan.wanted.name.clone(),
        platform: plan.wanted.platform.clone(),
        tenant: plan.wanted.tenant.clone(),
        label: plan.wanted.label.clone(),
        settings: plan.wanted.settings.clone(),
        client: plan.client.clone(),
        redirect: login.redirect.to_string(),
        verifier: verifier.map_err(|e| Refused::Unfit(e.to_string()))?,
        by: by.actor.clone(),
        until: ledger.now().await? + LASTS,
        replaces: plan.replaces,
    };
    ledger.begin_login(&begun).await?;
    Ok(digest)
}

fn row(digest: &[u8]) -> String {
    digest.iter().map(|it| format!("{it:02x}")).collect()
}

fn place(row: &str) -> Place<'_> {
    Place {
        table: "logins",
        row,
        column: "verifier",
    }
}

/// Ends a login that was written down: who brings its state is who was sent, once, and in time. How it ended
/// is written down for who began it. For people.
///
/// # Errors
/// When there is no such login, or the ledger is away.
pub async fn end(
    http: &Http,
    ledger: &dyn Ledger,
    config: &Config,
    (state, returned): (&SecretString, Returned),
) -> Result<Ended, Refused> {
    let digest = digest(state);
    let Some(begun) = ledger.take_login(&digest).await? else {
        return Err(Refused::Missing(
            "this login was ended before, or began more than ten minutes ago, or never: begin it anew with `presswork accounts login`".to_owned(),
        ));
    };
    let account = begun.account.clone();
    let done = match returned {
        Returned::Code(code) => take(http, ledger, config, begun, &code).await,
        Returned::Denied(code, told) => unfit(denied(&code, &told)),
    };
    let ended = match done {
        Ok(it) => Ended {
            done: true,
            told: it.told,
        },
        Err(e) => Ended {
            done: false,
            told: e.to_string(),
        },
    };
    if let Err(e) = ledger.end_login(&digest, &ended).await {
        tracing::warn!(account, "who began its login isn't told how it ended: {e}");
    }
    Ok(ended)
}

/// What is told of a platform that gave no code.
pub fn denied(code: &str, told: &str) -> String {
    let told = match told {
        "" => code.to_owned(),
        it => format!("{code}: {it}"),
    };
    format!("the platform gave no access ({told}); nothing was changed")
}

async fn take(
    http: &Http,
    ledger: &dyn Ledger,
    config: &Config,
    begun: Begun,
    code: &SecretString,
) -> Result<LoggedIn, Refused> {
    let odd = |e: &dyn std::fmt::Display| Refused::Unfit(format!("its login can't be read: {e}"));
    let redirect = Url::parse(&begun.redirect).map_err(|e| odd(&e))?;
    let verifier = match &begun.verifier {
        None => None,
        Some(it) => {
            let row = row(&begun.digest);
            let plain = config.vault.open(place(&row), it).map_err(|e| odd(&e))?;
            let text = std::str::from_utf8(&plain).map_err(|e| odd(&e))?;
            Some(SecretString::from(text))
        }
    };
    let plan = Plan {
        wanted: Wanted {
            name: begun.account,
            platform: begun.platform,
            tenant: begun.tenant,
            label: begun.label,
            settings: begun.settings,
            ..Wanted::default()
        },
        client: begun.client,
        replaces: begun.replaces,
    };
    let by = By {
        actor: begun.by,
        reason: "login".to_owned(),
    };
    let brought = Brought {
        code,
        verifier: verifier.as_ref(),
        redirect: &redirect,
    };
    finish(http, ledger, config, (plan, brought), &by).await
}

/// Redeems what a person brought back, and makes the account, or gives it these credentials where they are
/// the same person's.
///
/// # Errors
/// Why the issuer gave no token, or why it couldn't be kept.
pub async fn finish(
    http: &Http,
    ledger: &dyn Ledger,
    config: &Config,
    (plan, brought): (Plan, Brought<'_>),
    by: &By,
) -> Result<LoggedIn, Refused> {
    let client = client(config, &plan.client)?;
    let facts = client.facts();
    let what = What::Code {
        code: brought.code,
        verifier: brought.verifier,
        redirect: brought.redirect,
    };
    let mut grant = granted(http, client, what).await?;
    if facts.exchange.is_some() {
        let short = grant.access.clone();
        let long = granted(http, client, What::Exchange(&short)).await?;
        grant = Grant {
            refresh: long.refresh.or(grant.refresh),
            scopes: long.scopes.or(grant.scopes),
            ..long
        };
    }
    let now = ledger.now().await?;
    let life_s = grant.expires_in_s.or(facts.lifetime_s);
    let life = life_s.and_then(|it| TimeDelta::try_seconds(i64::try_from(it).ok()?));
    let expires_at = life.and_then(|it| now.checked_add_signed(it));
    let scopes = grant.scopes.unwrap_or_else(|| client.scopes.clone());
    let credentials = Credentials {
        refresh_token: grant.refresh,
        client: Some(plan.client),
        ..Credentials::of(grant.access)
    };
    let name = plan.wanted.name.clone();
    let was = ledger.account(&name).await?;
    let settings = was
        .as_ref()
        .map_or(&plan.wanted.settings, |it| &it.settings);
    let is = kept::account(&name, &plan.wanted.platform, settings, &credentials);
    let whose = persons::whose(http, &is.map_err(Refused::Unfit)?).await;
    let account = if let Some(was) = was {
        // as it was planned: who took the name meanwhile keeps it
        if was.platform != plan.wanted.platform || was.tenant != plan.wanted.tenant {
            return unfit(format!(
                "account `{name}` became another one while this login was under way; nothing was changed"
            ));
        }
        // of one that was never asked about, the credentials that it has tell, while they are there
        if !plan.replaces && whose.person().is_some() {
            persons::ask(http, (ledger, config), &was, by).await?;
        }
        let others = Others {
            credentials: &credentials,
            scopes: &scopes,
            expires_at,
            whose: whose.clone(),
            insists: plan.replaces,
        };
        accounts::renew(ledger, config, &name, others, &said(by, &was, &whose)).await?
    } else {
        let wanted = Wanted {
            scopes,
            expires_at,
            person: whose.person().cloned(),
            ..plan.wanted
        };
        accounts::add(ledger, config, wanted, &credentials, by).await?
    };
    let told = told(&account, &whose);
    Ok(LoggedIn { account, told })
}

/// The deed, with whom it made of whom.
fn said(by: &By, was: &Kept, whose: &Whose) -> By {
    let before = was.person.as_ref();
    let reason = match (whose, before) {
        (Whose::Of(is), Some(was)) if is.id != was.id => {
            format!("{} of {is} instead of {was}", by.reason)
        }
        (Whose::Of(is), _) => format!("{} of {is}", by.reason),
        (_, Some(was)) => format!("{} of nobody knows whom instead of {was}", by.reason),
        (_, None) => by.reason.clone(),
    };
    By {
        reason,
        ..by.clone()
    }
}

/// What is told of an account that was logged in.
fn told(it: &Kept, whose: &Whose) -> String {
    let goes = match it.state {
        State::Paused => "it is still paused",
        _ => "its jobs go on within a second",
    };
    let name = &it.name;
    match whose {
        Whose::Of(person) => format!("account {name} is logged in as {person}; {goes}"),
        Whose::Untold => format!(
            "account {name} is logged in; {goes} ({} doesn't tell whose a token is: nobody compared)",
            it.platform
        ),
        Whose::Unknown(why) => format!(
            "account {name} is logged in; {goes} (whose it is isn't known, and `presswork accounts test {name}` asks again: {why})"
        ),
    }
}

async fn granted(http: &Http, client: &Client, what: What<'_>) -> Result<Grant, Refused> {
    let name = client.facts().name;
    let Some(request) = client.ask(what) else {
        return unfit(format!("{name} has no such request"));
    };
    match ask(http, &request, PATIENCE).await {
        Verdict::Granted(it) => Ok(it),
        Verdict::Gone(told) => unfit(format!(
            "{name} gave no token ({told}): a code is good once and for a short while; log in again"
        )),
        Verdict::Client(told) => unfit(format!(
            "{name} doesn't take the app ({told}): compare client_id, client_secret, scopes and redirect_url with what is registered there, then log in again"
        )),
        Verdict::Later(told, _) => unfit(format!(
            "{name} gives no token now ({told}): log in again in a moment"
        )),
        Verdict::Unknown(told) => unfit(format!(
            "{name} gave no answer that can be read ({told}), and may have used the code up: log in again"
        )),
    }
}
