//! Fallbacks: who does a kind's jobs in whose stead, in order.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use crate::json::did_you_mean;

use super::error::Place;
use super::read::{Part, Raw, Reader, shown_key};
use super::types::{Account, Fallback, KindSettings, Model};
use super::words::FALL_BACK;

/// The platform whose accounts a kind can fall back to. `None`: it has no fallbacks.
pub fn falls_back_to(kind: &str) -> Option<&'static str> {
    let found = FALL_BACK.iter().find(|it| it.0 == kind);
    found.map(|it| it.1)
}

/// So many are named at most.
const MOST: usize = 8;
/// How one is written.
const EXAMPLE: &str = "fallbacks = [{ account = \"openai-b\", model = \"gpt-5-mini\" }]";

impl<'a> Reader<'a> {
    /// The fallbacks of each kind. What they name is checked once accounts and models are known.
    pub(super) fn fallbacks(
        &mut self,
        kinds: &mut BTreeMap<String, KindSettings>,
        accounts: &BTreeMap<String, Account>,
        models: &BTreeMap<String, Model>,
    ) {
        // what is wrong with the rest of these tables was told when they were read first
        let told = self.errors.len();
        let parts = self.parts("kinds");
        self.errors.truncate(told);
        for part in parts {
            let all = self.fallbacks_of(&part, accounts, models);
            if let Some(settings) = kinds.get_mut(part.name) {
                settings.fallbacks = all;
            }
        }
    }

    fn fallbacks_of(
        &mut self,
        part: &Part<'a>,
        accounts: &BTreeMap<String, Account>,
        models: &BTreeMap<String, Model>,
    ) -> Vec<Fallback> {
        let Some(said) = self.raw(part, "fallbacks") else {
            return Vec::new();
        };
        let path = format!("{}.fallbacks", part.path);
        let place = said.place;
        let Some(platform) = falls_back_to(part.name) else {
            let kinds: Vec<&str> = FALL_BACK.iter().map(|it| it.0).collect();
            let message = format!(
                "`{}` has no fallbacks, because what it does is another thing at another account; {} have some",
                part.name,
                kinds.join(", ")
            );
            self.wrong(&place, path, None, message);
            return Vec::new();
        };
        let list = match &said.value {
            Raw::Toml(it) => it.as_array(),
            Raw::Variable(_) => None,
        };
        let Some(list) = list.filter(|it| (1..=MOST).contains(&it.len())) else {
            let message =
                format!("a list of 1 to {MOST}, in the order in which they are tried: {EXAMPLE}");
            self.wrong(&place, path, None, message);
            return Vec::new();
        };
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        for (n, it) in list.iter().enumerate() {
            let path = format!("{path}[{n}]");
            let place = self.place(it);
            let DeValue::Table(table) = it.get_ref() else {
                let message = format!("a table that names an account: {EXAMPLE}");
                self.wrong(&place, path, None, message);
                continue;
            };
            let Some(it) = self.fallback(table, (&path, &place)) else {
                continue;
            };
            self.known_account(&it.account, platform, (&path, &place), accounts);
            if !seen.insert(it.account.clone()) {
                let message = "stands in the list already; each account is tried once, with one model, because what closes it closes it for all of them";
                let said = Some(format!("{:?}", it.account));
                self.wrong(&place, format!("{path}.account"), said, message);
            }
            if let Some(model) = &it.model {
                self.known_model(model, platform, (&path, &place), models);
            }
            all.push(it);
        }
        all
    }

    fn fallback(&mut self, table: &DeTable<'a>, (path, place): (&str, &Place)) -> Option<Fallback> {
        let (mut account, mut model) = (None, None);
        for (key, value) in table {
            let key: &str = key.get_ref();
            let path = format!("{path}.{}", shown_key(key));
            let slot = match key {
                "account" => &mut account,
                "model" => &mut model,
                _ => {
                    let near = did_you_mean(key, ["account", "model"]);
                    let message = format!("unknown key{near}; there are account and model");
                    self.wrong(place, path, None, message);
                    continue;
                }
            };
            match value.get_ref().as_str().filter(|it| !it.trim().is_empty()) {
                Some(text) => *slot = Some(text.to_owned()),
                None => self.wrong(place, path, None, "a name, in quotes"),
            }
        }
        if account.is_none() && !table.iter().any(|it| it.0.get_ref() == "account") {
            let message = format!("is missing: {EXAMPLE}");
            self.wrong(place, format!("{path}.account"), None, message);
        }
        let account = account?;
        Some(Fallback { account, model })
    }

    fn known_account(
        &mut self,
        name: &str,
        platform: &str,
        (path, place): (&str, &Place),
        accounts: &BTreeMap<String, Account>,
    ) {
        let fits = |it: &&Account| it.platform == platform;
        let message = match accounts.get(name) {
            Some(it) if fits(&it) => return,
            Some(it) => format!(
                "an account of {platform}; `{name}` is one of {}",
                it.platform
            ),
            // one that is there and wrong was told already
            None if self.names("accounts").contains(&name) => return,
            // the ledger may have it, which isn't asked here
            None if !self.names("vault").is_empty() => return,
            None => {
                let fitting = accounts.iter().filter(|it| fits(&it.1));
                let near = did_you_mean(name, fitting.map(|it| it.0.as_str()));
                format!("the name of an account of {platform}; [accounts] has none of it{near}")
            }
        };
        let said = Some(format!("{name:?}"));
        self.wrong(place, format!("{path}.account"), said, message);
    }

    fn known_model(
        &mut self,
        name: &str,
        platform: &str,
        (path, place): (&str, &Place),
        models: &BTreeMap<String, Model>,
    ) {
        // a picture's price may stand under the model with its size and quality
        let is_of = |it: &str| it == name || it.split('/').next() == Some(name);
        let message = match models.keys().any(|it| is_of(it)) {
            _ if platform != "openai" => {
                "an endpoint has no model; leave it out, and let its account's address say where"
                    .to_owned()
            }
            true => return,
            // one that is there and wrong was told already
            false if self.names("models").into_iter().any(is_of) => return,
            false => {
                let near = did_you_mean(name, models.keys().map(String::as_str));
                format!(
                    "the name of a model whose prices are known{near}; add [models.{}], or what it costs there isn't counted",
                    shown_key(name)
                )
            }
        };
        let said = Some(format!("{name:?}"));
        self.wrong(place, format!("{path}.model"), said, message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const WORLD: &str = "[accounts.a]\nplatform = \"openai\"\nsecret = { env = \"K\" }\n\
        [accounts.b]\nplatform = \"openai\"\nsecret = { env = \"K\" }\n\
        [accounts.m]\nplatform = \"mastodon\"\nbase_url = \"https://m.example\"\nsecret = { env = \"K\" }\n\
        [models.large]\ninput_micros_per_mtok = 1\noutput_micros_per_mtok = 1\n";

    fn parsed(kinds: &str) -> Result<Config, Vec<(String, String)>> {
        let env = |name: &str| (name == "K").then(|| "a-long-secret".to_owned());
        let read = Config::parse(&format!("{WORLD}{kinds}"), None, &env);
        read.map_err(|e| {
            let told = e.errors.into_iter();
            told.map(|it| (it.key.clone(), it.to_string())).collect()
        })
    }

    #[test]
    fn fallbacks_are_read_in_their_order() {
        let config = parsed(
            "[kinds.\"generate.text\"]\nfallbacks = [{ account = \"b\", model = \"large\" }, { account = \"a\" }]\n",
        )
        .unwrap();
        let it = |account: &str, model: Option<&str>| Fallback {
            account: account.to_owned(),
            model: model.map(str::to_owned),
        };
        let settings = &config.kinds["generate.text"];
        assert_eq!(settings.fallbacks, [it("b", Some("large")), it("a", None)]);
        let shown = config.effective();
        let said = shown.iter().find(|it| it.0.ends_with(".fallbacks"));
        assert_eq!(said.map(|it| it.1.as_str()), Some("b (large), a"));
    }

    #[test]
    fn what_is_wrong_with_fallbacks_is_told_at_once() {
        let told = parsed(
            "[kinds.\"generate.text\"]\nfallbacks = [{ account = \"bb\" }, { account = \"m\" }, \
             { account = \"b\", model = \"larg\" }, { account = \"b\" }, { model = \"large\" }, \"a\", \
             { account = \"a\", modell = \"x\" }]\n\
             [kinds.\"post.mastodon\"]\nfallbacks = [{ account = \"m\" }]\n\
             [kinds.\"http.call\"]\nfallbacks = []\n\
             [kinds.\"illustrate.image\"]\nlan = \"x\"\nfallbacks = [{ account = \"a\" }]\n",
        )
        .unwrap_err();
        let text = "kinds.\"generate.text\".fallbacks";
        for (key, word) in [
            (format!("{text}[0].account"), "did you mean `b`"),
            (format!("{text}[1].account"), "is one of mastodon"),
            (format!("{text}[2].model"), "did you mean `large`"),
            (format!("{text}[3].account"), "in the list already"),
            (format!("{text}[4].account"), "is missing"),
            (format!("{text}[5]"), "names an account"),
            (format!("{text}[6].modell"), "did you mean `model`"),
            (
                "kinds.\"post.mastodon\".fallbacks".to_owned(),
                "has no fallbacks",
            ),
            ("kinds.\"http.call\".fallbacks".to_owned(), "1 to 8"),
            ("kinds.\"illustrate.image\".lan".to_owned(), "unknown key"),
        ] {
            let found = told.iter().find(|it| it.0 == key);
            let found = found.unwrap_or_else(|| panic!("{key}: {told:?}"));
            assert!(found.1.contains(word), "{word}: {}", found.1);
        }
        assert_eq!(told.len(), 10, "{told:?}");
    }
}
