//! An issuer, and hosts that renew what it gives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use presswork::account::Kept;
use presswork::config::{Config, kept};
use presswork::engine::accounts::learn;
use presswork::engine::refresher::Refresher;
use presswork::handler::Kind;
use presswork::oauth::login::{Login, Returned};
use presswork::oauth::{Client, Issuer};
use presswork::operate::Refused;
use presswork::operate::accounts::Wanted;
use presswork::operate::logins::{self, Brought, LoggedIn, Plan};
use presswork::platform::http::Http;
use presswork::sandbox::{Options, Sandbox};
use presswork::vault::{Key, Vault};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::Url;

use crate::rig::{Base, Rig, somebody};
use crate::wrap::Faulty;

const BACK: &str = "http://127.0.0.1:8723/callback";
/// As the sandbox gives them unless it is told otherwise, in seconds.
pub const LIFE_S: u64 = 7_200;

/// The platform of an account that may have to be made, and what is set of it then.
pub type Made<'a> = (&'a str, &'a [(&'a str, String)]);

/// The simulated platforms and their issuer.
pub struct Outside {
    sandbox: Sandbox,
    client: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Outside {
    pub async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        Self {
            sandbox: Sandbox::start(options).await.unwrap(),
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            _dir: dir,
        }
    }

    pub fn url(&self, path: &str) -> Url {
        format!("{}{path}", self.sandbox.url()).parse().unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) {
        let call = self.client.post(self.url(path)).json(&body);
        let answer = call.send().await.unwrap();
        assert!(answer.status().is_success(), "{body}: {answer:?}");
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        let answer = self.client.get(self.url(path)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// What the issuer did: of one operation, for one account.
    pub async fn acts(&self, op: &str, account: &str) -> Vec<Value> {
        self.list(&format!(
            "/_sandbox/acts?platform=issuer&op={op}&account={account}"
        ))
        .await
    }

    /// Requests of an operation that came in for an account.
    pub async fn requests(&self, op: &str, account: &str) -> usize {
        let path = format!("/_sandbox/requests?op={op}&account={account}");
        self.list(&path).await.len()
    }

    pub async fn fault(&self, op: &str, account: &str, fault: &str) {
        let script = json!({"op": op, "account": account, "fault": fault, "delay_ms": 500});
        self.post("/_sandbox/faults", script).await;
    }

    pub async fn set(&self, values: Value) {
        self.post("/_sandbox/settings", values).await;
    }

    /// Whether a platform takes an access token.
    pub async fn takes(&self, token: &str) -> bool {
        let call = self.client.get(self.url("/x/2/users/me"));
        let answer = call.bearer_auth(token).send().await.unwrap();
        answer.status() == 200
    }

    pub async fn open(&self, url: &Url) -> reqwest::Response {
        self.client.get(url.clone()).send().await.unwrap()
    }

    /// As what shows a preview of an address.
    pub async fn peek(&self, url: &Url) -> reqwest::Response {
        self.client.head(url.clone()).send().await.unwrap()
    }

    /// Where the issuer sends a person back to.
    pub async fn granted(&self, page: &Url) -> Url {
        let page = self.open(page).await;
        let back = page.headers()["location"].to_str().unwrap();
        back.parse().unwrap()
    }

    /// The app that every sandbox knows.
    pub fn app(&self) -> Client {
        Client {
            issuer: Issuer::X,
            id: "sandbox-app".to_owned(),
            secret: Some("sandbox-app-secret".into()),
            scopes: vec!["tweet.write".to_owned()],
            authorize: self.url("/issuer/authorize"),
            token: self.url("/issuer/token"),
            refresh: None,
            exchange: None,
            redirect: None,
        }
    }

    pub fn edit(&self, config: &mut Config) {
        config.vault = vault();
        config.oauth = BTreeMap::from([("app".to_owned(), self.app())]);
    }

    /// The account's own person logs in: it is made, or gets other credentials.
    pub async fn log_in(&self, base: &Base, name: &str) -> Kept {
        let done = self.log_in_as(base, name, (name, false)).await;
        done.unwrap().account
    }

    /// Somebody logs in.
    pub async fn log_in_as(
        &self,
        base: &Base,
        name: &str,
        (whom, replaces): (&str, bool),
    ) -> Result<LoggedIn, Refused> {
        self.set(json!({"issuer_account": whom})).await;
        let settings = [("base_url", self.url("/mastodon").to_string())];
        let wanted = ("mastodon", &settings[..]);
        let plan = (name, replaces, wanted);
        self.log_in_by(base, self.app(), plan).await
    }

    /// Whoever is next to log in at the issuer does, by an app.
    pub async fn log_in_by(
        &self,
        base: &Base,
        app: Client,
        (name, replaces, (platform, settings)): (&str, bool, Made<'_>),
    ) -> Result<LoggedIn, Refused> {
        let mut config = base.config();
        self.edit(&mut config);
        config.oauth = BTreeMap::from([("app".to_owned(), app.clone())]);
        let settings = settings
            .iter()
            .map(|(key, it)| ((*key).to_owned(), it.clone()));
        let wanted = Wanted {
            platform: platform.to_owned(),
            settings: match base.ledger.account(name).await.unwrap() {
                Some(_) => BTreeMap::new(),
                None => settings.collect(),
            },
            ..Wanted::default()
        };
        let plan = logins::plan(&*base.ledger, &config, (name, "app"), wanted);
        let plan = Plan {
            replaces,
            ..plan.await.unwrap()
        };
        let redirect: Url = BACK.parse().unwrap();
        let login = Login::begin(&app, redirect.clone()).unwrap();
        let back = self.granted(&login.url).await;
        let Returned::Code(code) = login.returned(back.query().unwrap()).unwrap() else {
            panic!("no code: {back}");
        };
        let brought = Brought {
            code: &code,
            verifier: login.verifier.as_ref(),
            redirect: &redirect,
        };
        let http = Http::new(base.clock.clone()).unwrap();
        let by = somebody();
        let done = logins::finish(&http, &*base.ledger, &config, (plan, brought), &by);
        done.await
    }
}

fn vault() -> Vault {
    let text = "0123456789abcdef".repeat(4);
    Vault::new(vec![Key::read("one", &text.into()).unwrap()])
}

/// A host with a ledger of its own making trouble.
pub struct Host {
    pub rig: Rig,
    pub ledger: Arc<Faulty>,
    pub refresher: Refresher,
}

impl Host {
    pub async fn new(base: &Base, outside: &Outside, kinds: Vec<Kind>) -> Self {
        let ledger = Faulty::new(base.ledger.clone());
        let own = Base {
            ledger: ledger.clone(),
            ..base.clone()
        };
        let rig = Rig::new(&own, kinds, |it| outside.edit(it)).await;
        Self {
            ledger,
            refresher: Refresher::new(rig.shared.clone()),
            rig,
        }
    }

    /// What it hears of the accounts, and of the time.
    pub async fn hear(&self) {
        self.rig.lease.lock().await.tick().await;
        learn(&self.rig.shared).await.unwrap();
        self.rig.shared.look_at_closures().await.unwrap();
    }

    /// Renews what is due, to its end.
    pub async fn renew(&self) -> usize {
        self.hear().await;
        let begun = self.refresher.tick();
        self.refresher.idle().await;
        begun
    }
}

/// Time goes on, here and there.
pub async fn pass(outside: &Outside, base: &Base, by_s: u64) {
    base.advance(Duration::from_secs(by_s)).await;
    outside
        .post("/_sandbox/clock", json!({"advance_s": by_s}))
        .await;
}

pub async fn kept(base: &Base, name: &str) -> Kept {
    base.ledger.account(name).await.unwrap().unwrap()
}

/// The token that an account has.
pub fn token(it: &Kept) -> String {
    let credentials = kept::opened(&vault(), it).unwrap();
    credentials.secret.expose_secret().to_owned()
}
