//! Commands: the programs that jobs may run, with what each gets and may use.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::error::Place;
use super::read::{Part, Raw, Reader, Said, shown_key};
use super::types::{Command, Lane, Variable};

/// Variables that each program gets from Presswork.
const OURS: [&str; 2] = ["HOME", "TMPDIR"];

impl<'a> Reader<'a> {
    pub(super) fn commands(&mut self, lanes: &BTreeMap<String, Lane>) -> BTreeMap<String, Command> {
        let mut commands = BTreeMap::new();
        for part in self.parts("commands") {
            let lane = self.text(&part, "lane");
            self.known_lane(&part, lane.as_ref(), lanes);
            let command = Command {
                program: self.program(&part).unwrap_or_default(),
                args: self.args(&part),
                env: self.variables(&part),
                lane: lane.map(|it| it.value),
                repeatable: self.bool(&part, "repeatable"),
                timeout: Duration::from_secs(self.int_or_default(&part, "timeout_s")),
                memory_mb: self.int(&part, "memory_mb").map(|it| it.value),
                cpu_s: self.int(&part, "cpu_s").map(|it| it.value),
                open_files: self.int_or_default(&part, "open_files"),
                file_mb: self.int_or_default(&part, "file_mb"),
                output_bytes_max: usize::try_from(self.int_or_default(&part, "output_bytes_max"))
                    .expect("its bounds are below 2^32"),
            };
            commands.insert(part.name.to_owned(), command);
        }
        commands
    }

    fn program(&mut self, part: &Part<'a>) -> Option<PathBuf> {
        let Some(said) = self.text(part, "program") else {
            let advice = "write its whole path: program = \"/usr/local/bin/resize\"";
            self.missing(part, "program", advice);
            return None;
        };
        let path = Path::new(&said.value);
        let plain = |it: Component<'_>| matches!(it, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) {
            let message = "a path from the root on and without `..`, such as \"/usr/local/bin/resize\"; no shell reads it, and PATH isn't searched";
            let shown = Some(format!("{:?}", said.value));
            self.wrong(
                &said.place,
                format!("{}.program", part.path),
                shown,
                message,
            );
        }
        Some(path.to_owned())
    }

    fn args(&mut self, part: &Part<'a>) -> Vec<String> {
        let message = "a list of strings, one an argument: args = [\"--width\", \"800\"]";
        let said = self.strings(part, "args", message);
        said.map(|it| it.0).unwrap_or_default()
    }

    /// Strings between brackets, and where they stand; none where `message` had to be told.
    pub(super) fn strings(
        &mut self,
        part: &Part<'a>,
        key: &str,
        message: &str,
    ) -> Option<(Vec<String>, Place)> {
        let said = self.raw(part, key)?;
        let list = match &said.value {
            Raw::Toml(it) => it.as_array(),
            Raw::Variable(_) => None,
        };
        let plain = |it: &&str| !it.contains('\0');
        let texts = |it: &toml::de::DeArray<'a>| {
            let texts = it.iter().map(|it| it.get_ref().as_str().filter(plain));
            texts
                .map(|it| it.map(str::to_owned))
                .collect::<Option<Vec<String>>>()
        };
        let found = list.and_then(texts);
        if found.is_none() {
            self.wrong(&said.place, format!("{}.{key}", part.path), None, message);
        }
        Some((found.unwrap_or_default(), said.place))
    }

    fn variables(&mut self, part: &Part<'a>) -> BTreeMap<String, Variable> {
        let mut env = BTreeMap::new();
        let Some(said) = self.raw(part, "env") else {
            return env;
        };
        let path = format!("{}.env", part.path);
        let Raw::Toml(DeValue::Table(table)) = said.value else {
            let message =
                "a table of variables: env = { LEVEL = \"7\", KEY = { file = \"path\" } }";
            self.wrong(&said.place, path, None, message);
            return env;
        };
        for (name, value) in table {
            let name: &str = name.get_ref();
            let path = format!("{path}.{}", shown_key(name));
            let place = said.place.clone();
            let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let wrong = if !begins || !name.chars().all(letters) {
                Some("a variable's name has letters, digits and _, and doesn't begin with a digit")
            } else if OURS.contains(&name) || name.starts_with("PRESSWORK_") {
                Some("is a variable that Presswork itself sets; take another name")
            } else if value.get_ref().as_str().is_some_and(|it| it.contains('\0')) {
                Some("holds a NUL, which no variable can")
            } else {
                None
            };
            if let Some(message) = wrong {
                self.wrong(&place, path, None, message);
                continue;
            }
            let variable = match value.get_ref() {
                DeValue::String(text) => Some(Variable::Plain(text.to_string())),
                other => {
                    let value = Raw::Toml(other);
                    let said = Said { value, place };
                    self.secret_of(said, path).map(Variable::Secret)
                }
            };
            env.extend(variable.map(|it| (name.to_owned(), it)));
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_command_is_whole_and_its_secrets_are_references() {
        let text = "[commands.a]\nprogram = \"/bin/wc\"\nargs = [\"-w\"]\n\
            env = { LEVEL = \"7\", KEY = { env = \"K\" } }\nlane = \"default\"\nmemory_mb = 64\n";
        let env = |name: &str| (name == "K").then(|| "a-long-secret".to_owned());
        let config = Config::parse(text, None, &env).unwrap();
        let it = &config.commands["a"];
        assert_eq!((it.repeatable, it.memory_mb), (false, Some(64)));
        assert!(matches!(&it.env["LEVEL"], Variable::Plain(it) if it == "7"));
        let shown = format!("{:?}", config.effective());
        assert!(!shown.contains("a-long-secret") && shown.contains("KEY = ***"));
    }

    #[test]
    fn what_is_wrong_with_commands_and_endpoints_is_told_at_once() {
        let text = "[commands.a]\nprogram = \"wc\"\nargs = \"-w\"\nlane = \"nowhere\"\n\
            env = { 1X = \"a\", HOME = \"b\", PRESSWORK_X = \"c\", KEY = 7 }\n\
            [commands.b]\ntimeout_s = 0\n\
            [accounts.c]\nplatform = \"http\"\nsecret = { env = \"PLAIN\" }\n\
            [accounts.d]\nplatform = \"x\"\nsecret = { env = \"PLAIN\" }\ntimeout_s = 9\n";
        let env = |name: &str| (name == "PLAIN").then(|| "not-a-signing-secret".to_owned());
        let errors = Config::parse(text, None, &env).unwrap_err().errors;
        let keys: Vec<&str> = errors.iter().map(|it| it.key.as_str()).collect();
        for wrong in
            "commands.a.program commands.a.args commands.a.lane commands.a.env.1X commands.a.env.HOME \
            commands.a.env.PRESSWORK_X commands.a.env.KEY commands.b.program commands.b.timeout_s \
            accounts.c.base_url accounts.c.secret accounts.d.timeout_s"
                .split(' ')
        {
            assert!(keys.contains(&wrong), "{wrong}: {keys:?}");
        }
        assert_eq!(keys.len(), 12, "{keys:?}");
    }
}
