//! `[oauth.NAME]`: apps that were registered with platforms, by which people log their accounts in.

use std::collections::BTreeMap;

use url::Url;

use super::read::{Part, Reader};
use crate::oauth::client::is_loopback;
use crate::oauth::issuer::Facts;
use crate::oauth::{Client, Issuer};

/// A scope has so many characters at most, and there are so many of them.
const SCOPE_MAX: usize = 200;
const SCOPES_MAX: usize = 100;

impl<'a> Reader<'a> {
    pub(super) fn clients(&mut self) -> BTreeMap<String, Client> {
        let mut clients = BTreeMap::new();
        for part in self.parts("oauth") {
            let client = self.client(&part);
            clients.extend(client.map(|it| (part.name.to_owned(), it)));
        }
        clients
    }

    fn client(&mut self, part: &Part<'a>) -> Option<Client> {
        let issuer = self.text(part, "issuer");
        if issuer.is_none() {
            let advice = format!("write one of {}", Issuer::WORDS.join(", "));
            self.missing(part, "issuer", &advice);
        }
        let issuer = issuer.and_then(|it| it.value.parse::<Issuer>().ok());
        let id = self.text(part, "client_id").map(|it| it.value);
        if id.is_none() {
            let advice = "the platform shows it where the app is registered (TikTok calls it the client key): client_id = \"...\"";
            self.missing(part, "client_id", advice);
        }
        let secret = self.secret(part, "client_secret").map(|it| it.value);
        if let (None, Some(issuer)) = (&secret, issuer)
            && !matches!(issuer, Issuer::X | Issuer::Google)
        {
            let name = issuer.facts().name;
            let advice = format!(
                "{name} asks each app for its secret: write client_secret = {{ env = \"NAME\" }}, {{ file = \"path\" }} or {{ credential = \"name\" }}"
            );
            self.missing(part, "client_secret", &advice);
        }
        let facts = issuer.map(Issuer::facts);
        let scopes = self.scopes(part, facts.as_ref());
        let said = |this: &mut Self, key| {
            let said = this.text(part, key);
            said.map(|it| this.address_of(part, key, it))
        };
        let authorize = said(self, "authorize_url");
        let token = said(self, "token_url");
        let refresh = said(self, "refresh_url");
        let exchange = said(self, "exchange_url");
        let redirect = self.redirect(part);
        let facts = facts?;
        for (key, is_said, is_there) in [
            ("refresh_url", refresh.is_some(), facts.refresh.is_some()),
            ("exchange_url", exchange.is_some(), facts.exchange.is_some()),
        ] {
            if is_said && !is_there {
                let place = part.place.clone();
                let message = format!("{} has no such address; leave it out", facts.name);
                self.wrong(&place, format!("{}.{key}", part.path), None, message);
            }
        }
        let usual = |it: &str| Url::parse(it).ok();
        let held = |said: Option<Option<Url>>, known: Option<&str>| match said {
            Some(it) => it,
            None => known.and_then(usual),
        };
        Some(Client {
            issuer: issuer?,
            id: id?,
            secret,
            scopes,
            authorize: held(authorize, Some(facts.authorize))?,
            token: held(token, Some(facts.token))?,
            refresh: held(refresh, facts.refresh),
            exchange: held(exchange, facts.exchange.map(|it| it.url)),
            redirect,
        })
    }

    fn scopes(&mut self, part: &Part<'a>, facts: Option<&Facts>) -> Vec<String> {
        let message = "a list of strings, as the platform spells them: scopes = [\"tweet.write\"]";
        let Some((said, place)) = self.strings(part, "scopes", message) else {
            let usual = facts.map_or(&[][..], |it| it.scopes);
            return usual.iter().map(|&it| it.to_owned()).collect();
        };
        let plain = |it: &String| {
            let letters = it.chars().all(|c| c.is_ascii_graphic() && c != '"');
            !it.is_empty() && it.len() <= SCOPE_MAX && letters
        };
        if SCOPES_MAX < said.len() || !said.iter().all(plain) {
            let message = format!(
                "a scope is one word of {SCOPE_MAX} characters at most, and there are {SCOPES_MAX} of them at most; each stands in quotes of its own"
            );
            self.wrong(&place, format!("{}.scopes", part.path), None, message);
        }
        said
    }

    /// Where people are sent back to: this machine, or the API's public address.
    fn redirect(&mut self, part: &Part<'a>) -> Option<Url> {
        let said = self.text(part, "redirect_url")?;
        let (place, shown) = (said.place.clone(), format!("{:?}", said.value));
        let url = self.address_of(part, "redirect_url", said)?;
        if is_loopback(&url) && url.port().is_none() {
            let message = "names no port: write one that is free where the browser is, such as \"http://127.0.0.1:8723/callback\", exactly as it is registered with the platform";
            let path = format!("{}.redirect_url", part.path);
            self.wrong(&place, path, Some(shown), message);
            return None;
        }
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use secrecy::ExposeSecret as _;

    fn env(name: &str) -> Option<String> {
        (name == "APP").then(|| "the-app-s-secret".to_owned())
    }

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(text, None, &env).map_err(|e| e.to_string())
    }

    #[test]
    fn a_client_has_its_issuers_addresses_unless_others_are_said() {
        let config = read(
            "[oauth.app]\nissuer = \"x\"\nclient_id = \"id\"\n[oauth.ours]\nissuer = \"instagram\"\nclient_id = \"id\"\nclient_secret = { env = \"APP\" }\nscopes = [\"a\", \"b\"]\ntoken_url = \"http://127.0.0.1:8/token\"\nredirect_url = \"https://pw.example/v1/oauth/callback\"\n",
        )
        .unwrap();
        let app = &config.oauth["app"];
        assert_eq!(app.token.as_str(), "https://api.x.com/2/oauth2/token");
        assert!(app.secret.is_none() && app.redirect.is_none());
        assert!(app.scopes.contains(&"offline.access".to_owned()));
        let ours = &config.oauth["ours"];
        assert_eq!(ours.token.as_str(), "http://127.0.0.1:8/token");
        assert_eq!(
            ours.refresh.as_ref().unwrap().as_str(),
            "https://graph.instagram.com/refresh_access_token"
        );
        assert_eq!(ours.scopes, ["a", "b"]);
        let secret = ours.secret.as_ref().unwrap();
        assert_eq!(secret.expose_secret(), "the-app-s-secret");
        let shown = format!("{:?}", config.effective());
        assert!(shown.contains("oauth.ours.token_url") && !shown.contains("the-app-s"));
    }

    #[test]
    fn what_is_wrong_with_a_client_is_told_with_what_to_write() {
        for (said, says) in [
            ("client_id = \"id\"", "oauth.app.issuer: is missing"),
            (
                "issuer = \"twitter\"\nclient_id = \"id\"",
                "one of x, google",
            ),
            ("issuer = \"x\"", "oauth.app.client_id: is missing"),
            (
                "issuer = \"tiktok\"\nclient_id = \"id\"",
                "TikTok asks each app for its secret",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nclient_secret = \"hunter22\"",
                "doesn't stand in the file",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nscopes = \"a b\"",
                "a list of strings",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nscopes = [\"a b\"]",
                "a scope is one word",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\ntoken_url = \"http://x.example/token\"",
                "https://",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nrefresh_url = \"https://x.example/r\"",
                "X has no such address",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nredirect_url = \"http://127.0.0.1/callback\"",
                "names no port",
            ),
            (
                "issuer = \"x\"\nclient_id = \"id\"\nredirect = \"http://127.0.0.1:1/\"",
                "did you mean `redirect_url`",
            ),
        ] {
            let e = read(&format!("[oauth.app]\n{said}\n")).unwrap_err();
            assert!(e.contains(says) && !e.contains("hunter22"), "{said}: {e}");
        }
    }
}
