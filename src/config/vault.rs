//! `[vault]`: the keys that credentials in the ledger are encrypted with.

use toml::de::DeValue;

use super::read::{Raw, Reader};
use super::secret::{FORMS, source};
use crate::telemetry::redact;
use crate::vault::{Key, Vault, check_id};

/// Keys at most: each is of use only until nothing is encrypted with it any more.
const KEYS_MAX: usize = 16;

impl<'a> Reader<'a> {
    pub(super) fn vault(&mut self) -> Vault {
        let part = self.part("vault");
        let Some(said) = self.raw(&part, "keys") else {
            return Vault::default();
        };
        let path = "vault.keys";
        let list = match &said.value {
            Raw::Toml(it) => it.as_array(),
            Raw::Variable(_) => None,
        };
        let Some(list) = list.filter(|it| it.len() <= KEYS_MAX) else {
            let message = format!(
                "a list of 16 keys at most, the first of which encrypts: keys = [{{ id = \"2026-11\", file = \"path\" }}], each with {FORMS} behind its id"
            );
            self.wrong(&said.place, path, None, message);
            return Vault::default();
        };
        let mut keys: Vec<Key> = Vec::with_capacity(list.len());
        for (at, it) in list.iter().enumerate() {
            let key = self.key(it.get_ref()).and_then(|key| {
                match keys.iter().any(|it| it.id() == key.id()) {
                    true => Err(format!("`{}` is the id of another key, too", key.id())),
                    false => Ok(key),
                }
            });
            match key {
                Ok(key) => keys.push(key),
                Err(message) => {
                    let path = format!("{path}[{at}]");
                    self.wrong(&said.place, path, None, message);
                }
            }
        }
        Vault::new(keys)
    }

    fn key(&self, said: &'a DeValue<'a>) -> Result<Key, String> {
        let form = || {
            format!(
                "a key is its id and one source: {{ id = \"2026-11\", file = \"path\" }}; the source is one of {FORMS}"
            )
        };
        let table = said.as_table().ok_or_else(form)?;
        let id = table.get("id").and_then(|it| it.get_ref().as_str());
        let id = id.ok_or_else(form)?;
        check_id(id)?;
        let mut rest = table.iter().filter(|it| it.0.get_ref() != "id");
        let (Some((how, what)), None) = (rest.next(), rest.next()) else {
            return Err(form());
        };
        let text = source(how.get_ref(), what.get_ref(), self.env)?;
        let text = secrecy::SecretString::from(text);
        redact::register(&text);
        Ok(Key::read(id, &text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn env(name: &str) -> Option<String> {
        match name {
            "ONE" => Some("0123456789abcdef".repeat(4)),
            "TWO" => Some("fedcba9876543210".repeat(4)),
            "BAD" => Some("hunter2hunter2".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn keys_stand_in_their_order_and_are_never_shown() {
        let text =
            "[vault]\nkeys = [{ id = \"new\", env = \"ONE\" }, { env = \"TWO\", id = \"old\" }]\n";
        let config = Config::parse(text, None, &env).unwrap();
        assert_eq!(config.vault.ids().collect::<Vec<_>>(), ["new", "old"]);
        let shown = format!("{config:?} {:?}", config.effective());
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
        assert!(shown.contains("new, old"));
        let none = Config::parse("", None, &env).unwrap();
        assert_eq!(none.vault.first(), None);
    }

    #[test]
    fn what_is_no_key_is_told_and_not_repeated() {
        for (keys, says) in [
            ("\"ONE\"", "a list of 16 keys"),
            ("[\"ONE\"]", "a key is its id and one source"),
            ("[{ id = \"a\" }]", "a key is its id and one source"),
            ("[{ id = \"a b\", env = \"ONE\" }]", "a key's id has"),
            (
                "[{ id = \"a\", env = \"ONE\", file = \"x\" }]",
                "one source",
            ),
            ("[{ id = \"a\", env = \"NONE\" }]", "NONE isn't set"),
            ("[{ id = \"a\", evn = \"ONE\" }]", "no source of secrets"),
            (
                "[{ id = \"a\", env = \"BAD\" }]",
                "as `presswork accounts new-key`",
            ),
            (
                "[{ id = \"a\", env = \"ONE\" }, { id = \"a\", env = \"TWO\" }]",
                "the id of another key",
            ),
        ] {
            let text = format!("[vault]\nkeys = {keys}\n");
            let e = Config::parse(&text, None, &env).unwrap_err().to_string();
            assert!(e.contains(says) && !e.contains("hunter2"), "{keys}: {e}");
            assert_eq!(e.lines().count(), 1, "{e}");
        }
    }
}
