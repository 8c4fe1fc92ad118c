//! A client: an app registered with an issuer, and the requests that it makes there, as data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url, form_urlencoded};

use super::issuer::{Facts, Issuer, Proof, Renewal};

/// An app registered with an issuer.
#[derive(Clone, Debug)]
pub struct Client {
    /// Who.
    pub issuer: Issuer,
    /// Its id there, which is no secret.
    pub id: String,
    /// Its secret. `None`: a public client, which only PKCE protects.
    pub secret: Option<SecretString>,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Where a person grants access.
    pub authorize: Url,
    /// Where codes and refresh tokens are redeemed.
    pub token: Url,
    /// Where a token is prolonged by itself.
    pub refresh: Option<Url>,
    /// Where a short-lived token is changed for a long-lived one.
    pub exchange: Option<Url>,
    /// Where the issuer sends people back to, as it is registered there.
    pub redirect: Option<Url>,
}

/// What is asked of an issuer.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A grant, for the code that a person brought back.
    Code {
        /// The code.
        code: &'a SecretString,
        /// What the challenge was made of.
        verifier: Option<&'a SecretString>,
        /// The very address that the person was sent back to.
        redirect: &'a Url,
    },
    /// A long-lived token for this short-lived one.
    Exchange(&'a SecretString),
    /// New tokens: for a refresh token, or for the token itself where it is prolonged.
    Refresh(&'a SecretString),
}

/// A request to an issuer.
#[derive(Clone, Debug)]
pub struct Ask {
    /// A POST of a form; else a GET, whose parameters are in the URL.
    pub post: bool,
    /// Where to, with the parameters of a GET.
    pub url: Url,
    /// The form of a POST, encoded.
    pub form: SecretString,
    /// The whole `Authorization`, where the client proves itself by it.
    pub authorization: Option<SecretString>,
    /// What must not be told.
    pub secrets: Vec<SecretString>,
}

impl Client {
    /// What is peculiar about its issuer.
    pub fn facts(&self) -> Facts {
        self.issuer.facts()
    }

    /// The request for `what`. `None`: this issuer has no such thing.
    pub fn ask(&self, what: What<'_>) -> Option<Ask> {
        let facts = self.facts();
        let mut secrets: Vec<SecretString> = self.secret.iter().cloned().collect();
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let secret = self.secret.as_ref().map(ExposeSecret::expose_secret);
        match (what, facts.renewal) {
            (
                What::Code {
                    code,
                    verifier,
                    redirect,
                },
                _,
            ) => {
                secrets.push(code.clone());
                secrets.extend(verifier.cloned());
                pairs.push(("grant_type", "authorization_code"));
                pairs.push(("code", code.expose_secret()));
                pairs.push(("redirect_uri", redirect.as_str()));
                pairs.extend(verifier.map(|it| ("code_verifier", it.expose_secret())));
            }
            (What::Exchange(token), _) => {
                let exchange = facts.exchange?;
                secrets.push(token.clone());
                pairs.push(("grant_type", exchange.grant));
                if exchange.names_client {
                    pairs.push((facts.client_id, &self.id));
                }
                pairs.extend(secret.map(|it| ("client_secret", it)));
                pairs.push((exchange.token, token.expose_secret()));
                return Some(get(self.exchange.as_ref()?, &pairs, secrets));
            }
            (What::Refresh(token), Renewal::Itself(grant)) => {
                secrets.push(token.clone());
                pairs.push(("grant_type", grant));
                pairs.push(("access_token", token.expose_secret()));
                return Some(get(self.refresh.as_ref()?, &pairs, secrets));
            }
            (What::Refresh(token), Renewal::Rotating | Renewal::Lasting) => {
                secrets.push(token.clone());
                pairs.push(("grant_type", "refresh_token"));
                pairs.push(("refresh_token", token.expose_secret()));
            }
            (What::Refresh(_), Renewal::Person) => return None,
        }
        pairs.extend(facts.token_with);
        let mut authorization = None;
        match (facts.proof, secret) {
            (Proof::Basic, Some(it)) => {
                let value = SecretString::from(basic(&self.id, it));
                secrets.push(value.clone());
                authorization = Some(value);
            }
            (Proof::Basic | Proof::Body, _) => {
                pairs.push((facts.client_id, &self.id));
                pairs.extend(secret.map(|it| ("client_secret", it)));
            }
        }
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        Some(Ask {
            post: true,
            url: self.token.clone(),
            form: form.into(),
            authorization,
            secrets,
        })
    }
}

/// Whether an address is this machine's own: only a browser there gets to it.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn get(url: &Url, pairs: &[(&str, &str)], secrets: Vec<SecretString>) -> Ask {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(pairs);
    Ask {
        post: false,
        url,
        form: SecretString::default(),
        authorization: None,
        secrets,
    }
}

/// Each half is encoded as in a form before they are joined (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &str) -> String {
    let encoded = |it: &str| form_urlencoded::byte_serialize(it.as_bytes()).collect::<String>();
    let both = format!("{}:{}", encoded(id), encoded(secret));
    format!("Basic {}", STANDARD.encode(both))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(issuer: Issuer, secret: Option<&str>) -> Client {
        let facts = issuer.facts();
        let url = |it: &str| Url::parse(it).unwrap();
        Client {
            issuer,
            id: "the id".to_owned(),
            secret: secret.map(SecretString::from),
            scopes: vec![],
            authorize: url(facts.authorize),
            token: url(facts.token),
            refresh: facts.refresh.map(url),
            exchange: facts.exchange.map(|it| url(it.url)),
            redirect: None,
        }
    }

    fn form(ask: &Ask) -> Vec<(String, String)> {
        let form = ask.form.expose_secret();
        form_urlencoded::parse(form.as_bytes())
            .into_owned()
            .collect()
    }

    #[test]
    fn each_issuer_is_asked_in_its_own_way() {
        let token = SecretString::from("old+token");
        let has = |form: &[(String, String)], key: &str| {
            let found = form.iter().find(|it| it.0 == key);
            found.map(|it| it.1.clone())
        };
        let x = client(Issuer::X, Some("s:cret"))
            .ask(What::Refresh(&token))
            .unwrap();
        let said = form(&x);
        assert_eq!(has(&said, "refresh_token").as_deref(), Some("old+token"));
        assert_eq!(has(&said, "client_id"), None);
        let basic = x.authorization.unwrap();
        let basic = basic.expose_secret().strip_prefix("Basic ").unwrap();
        let plain = STANDARD.decode(basic).unwrap();
        assert_eq!(plain, b"the+id:s%3Acret");

        let public = client(Issuer::X, None).ask(What::Refresh(&token)).unwrap();
        assert!(public.authorization.is_none());
        let said = form(&public);
        assert_eq!(has(&said, "client_id").as_deref(), Some("the id"));

        let tiktok = client(Issuer::TikTok, Some("s"))
            .ask(What::Refresh(&token))
            .unwrap();
        let said = form(&tiktok);
        assert_eq!(has(&said, "client_key").as_deref(), Some("the id"));
        assert_eq!(has(&said, "client_secret").as_deref(), Some("s"));

        let pinterest = client(Issuer::Pinterest, Some("s"))
            .ask(What::Refresh(&token))
            .unwrap();
        let continuous = has(&form(&pinterest), "continuous_refresh");
        assert_eq!(continuous.as_deref(), Some("true"));

        let threads = client(Issuer::Threads, Some("s"))
            .ask(What::Refresh(&token))
            .unwrap();
        assert!(!threads.post);
        assert_eq!(
            threads.url.query(),
            Some("grant_type=th_refresh_token&access_token=old%2Btoken")
        );
        let facebook = client(Issuer::Facebook, Some("s"));
        assert!(facebook.ask(What::Refresh(&token)).is_none());
        let exchange = facebook.ask(What::Exchange(&token)).unwrap();
        let query = exchange.url.query().unwrap();
        assert!(
            query.contains("client_id=the+id") && query.contains("fb_exchange_token=old"),
            "{query}"
        );
        assert!(
            client(Issuer::X, None)
                .ask(What::Exchange(&token))
                .is_none()
        );
    }

    #[test]
    fn a_code_is_redeemed_with_its_verifier_and_the_very_redirect() {
        let code = SecretString::from("c0de");
        let verifier = SecretString::from("v3rifier");
        let redirect = Url::parse("http://127.0.0.1:8723/callback").unwrap();
        let what = What::Code {
            code: &code,
            verifier: Some(&verifier),
            redirect: &redirect,
        };
        let ask = client(Issuer::Google, Some("s")).ask(what).unwrap();
        let said = form(&ask);
        let has = |key: &str, value: &str| said.contains(&(key.to_owned(), value.to_owned()));
        assert!(has("code", "c0de") && has("code_verifier", "v3rifier"));
        assert!(has("redirect_uri", redirect.as_str()) && has("client_secret", "s"));
        let hidden: Vec<_> = ask
            .secrets
            .iter()
            .map(ExposeSecret::expose_secret)
            .collect();
        for secret in ["c0de", "v3rifier", "s"] {
            assert!(hidden.contains(&secret), "{secret}");
        }
    }
}
