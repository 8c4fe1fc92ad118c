//! Reads values out of the file and the environment: types, bounds, unknown keys; each with its
//! place, and nothing given up at the first mistake.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::job::envelope::NAME_MAX;
use crate::json::did_you_mean;

use super::error::{ConfigError, Place};
use super::keys::{Bounds, SECTIONS, Section, Shape, section};

/// How the environment is asked.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value and where it was said.
pub(super) struct Said<T> {
    pub value: T,
    pub place: Place,
}

/// A value as it was said.
pub(super) enum Raw<'a> {
    Toml(&'a DeValue<'a>),
    Variable(String),
}

/// A section, or one name's table of it.
pub(super) struct Part<'a> {
    /// `daemon`, `kinds."post.mastodon"`.
    pub path: String,
    /// The name, in sections by name.
    pub name: &'a str,
    pub section: &'static Section,
    pub place: Place,
    table: Option<&'a DeTable<'a>>,
}

/// Reads, and collects what is wrong.
pub(super) struct Reader<'a> {
    text: &'a str,
    root: &'a DeTable<'a>,
    pub env: Env<'a>,
    pub errors: Vec<ConfigError>,
    pub places: BTreeMap<String, Place>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, root: &'a DeTable<'a>, env: Env<'a>) -> Self {
        let mut reader = Self {
            text,
            root,
            env,
            errors: Vec::new(),
            places: BTreeMap::new(),
        };
        reader.unknown_sections();
        reader
    }

    /// Notes that something is wrong.
    pub(super) fn wrong(
        &mut self,
        place: &Place,
        key: impl Into<String>,
        said: Option<String>,
        message: impl Into<String>,
    ) {
        self.errors.push(ConfigError {
            place: place.clone(),
            key: key.into(),
            said,
            message: message.into(),
        });
    }

    /// Where it stands.
    pub(super) fn place<T>(&self, at: &Spanned<T>) -> Place {
        Place::of_byte(self.text, at.span().start)
    }

    fn unknown_sections(&mut self) {
        let names = || SECTIONS.iter().map(|it| it.name);
        for (key, _) in self.root {
            let name: &str = key.get_ref();
            if names().any(|it| it == name) {
                continue;
            }
            let place = self.place(key);
            let homes = SECTIONS
                .iter()
                .filter(|it| !it.by_name && it.key(name).is_some());
            let message = match homes.map(|it| format!("[{}]", it.name)).collect::<Vec<_>>() {
                homes if !homes.is_empty() => format!("belongs under {}", homes.join(" or ")),
                _ => {
                    let all = names().collect::<Vec<_>>().join(", ");
                    match did_you_mean(name, names()) {
                        near if near.is_empty() => format!("unknown section; there are {all}"),
                        near => format!("unknown section{near}"),
                    }
                }
            };
            self.wrong(&place, shown_key(name), None, message);
        }
    }

    /// A fixed section. Its unknown keys are told.
    pub(super) fn part(&mut self, name: &str) -> Part<'a> {
        let section = section(name);
        let said = self.root.get(name);
        let place = said.map_or(Place::Nowhere, |it| self.place(it));
        let part = Part {
            path: name.to_owned(),
            name: "",
            section,
            table: said.and_then(|it| self.table(name, it)),
            place,
        };
        self.unknown_keys(&part);
        part
    }

    /// The names in a section whose entries have some.
    pub(super) fn names(&self, section: &str) -> Vec<&'a str> {
        let table = self
            .root
            .get(section)
            .and_then(|it| it.get_ref().as_table());
        let names = table.into_iter().flat_map(|it| it.keys());
        names.map(|it| it.get_ref().as_ref()).collect()
    }

    /// The tables of a section by name, in the order of their names.
    pub(super) fn parts(&mut self, name: &str) -> Vec<Part<'a>> {
        let section = section(name);
        let Some(table) = self.root.get(name).and_then(|it| self.table(name, it)) else {
            return Vec::new();
        };
        let mut parts = Vec::new();
        for (key, value) in table {
            let entry: &'a str = key.get_ref();
            let path = format!("{name}.{}", shown_key(entry));
            let place = self.place(key);
            self.check_name(&path, &place, entry);
            let Some(table) = self.table(&path, value) else {
                continue;
            };
            self.places.insert(path.clone(), place.clone());
            let part = Part {
                path,
                name: entry,
                section,
                table: Some(table),
                place,
            };
            self.unknown_keys(&part);
            parts.push(part);
        }
        parts
    }

    fn table(&mut self, path: &str, value: &'a Spanned<DeValue<'a>>) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let place = self.place(value);
            let message =
                format!("is a table; write [{path}] on a line of its own and its keys below");
            self.wrong(&place, path, None, message);
        }
        table
    }

    /// Names follow the rule of envelopes.
    fn check_name(&mut self, path: &str, place: &Place, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/+".contains(c);
        if name.is_empty() || NAME_MAX < name.len() || !name.chars().all(plain) {
            let message = format!("a name has 1 to {NAME_MAX} letters, digits and . _ - @ : / +");
            self.wrong(place, path, None, message);
        }
    }

    fn unknown_keys(&mut self, part: &Part<'a>) {
        for (key, value) in part.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if part.section.key(name).is_some() {
                continue;
            }
            let names = || part.section.keys.iter().map(|it| it.name);
            let message = if part.section.by_name && value.get_ref().is_table() {
                let whole = format!("{}.{name}", part.name);
                format!(
                    "a name with a dot stands in quotes: [{}.\"{whole}\"]",
                    part.section.name
                )
            } else {
                match did_you_mean(name, names()) {
                    near if near.is_empty() => {
                        format!(
                            "unknown key; there are {}",
                            names().collect::<Vec<_>>().join(", ")
                        )
                    }
                    near => format!("unknown key{near}"),
                }
            };
            let place = self.place(key);
            self.wrong(
                &place,
                format!("{}.{}", part.path, shown_key(name)),
                None,
                message,
            );
        }
    }

    /// A key's value: the environment's where the section may have one, else the file's.
    pub(super) fn raw(&mut self, part: &Part<'a>, key: &str) -> Option<Said<Raw<'a>>> {
        let variable = part.section.variable(key);
        let said = variable.and_then(|name| Some(((self.env)(&name)?, name)));
        let said = match said {
            Some((value, name)) if !value.is_empty() => Said {
                value: Raw::Variable(value),
                place: Place::Variable(name),
            },
            _ => {
                let value = part.table?.get(key)?;
                Said {
                    value: Raw::Toml(value.get_ref()),
                    place: self.place(value),
                }
            }
        };
        self.places
            .insert(format!("{}.{key}", part.path), said.place.clone());
        Some(said)
    }

    fn mistyped(&mut self, part: &Part<'_>, key: &str, said: &Said<Raw<'_>>, wanted: &str) {
        let path = format!("{}.{key}", part.path);
        self.wrong(&said.place, path, Some(said.value.shown()), wanted);
    }

    /// A whole number within its bounds; `None` when nothing good was said.
    pub(super) fn int(&mut self, part: &Part<'a>, key: &str) -> Option<Said<u64>> {
        let Some(Shape::Int(bounds)) = part.section.key(key).map(|it| it.shape) else {
            unreachable!("{key} is a number of the table of keys");
        };
        let said = self.raw(part, key)?;
        let number = match &said.value {
            Raw::Toml(DeValue::Integer(it)) => i128::from_str_radix(it.as_str(), it.radix()).ok(),
            Raw::Toml(_) => None,
            Raw::Variable(text) => text.trim().parse().ok(),
        };
        let Some(number) = number else {
            let wanted = format!("a whole number, {}", example(key, &said.value, bounds));
            self.mistyped(part, key, &said, &wanted);
            return None;
        };
        let wrong = if number < i128::from(bounds.min) {
            format!("at least {}{}", bounds.min, bounds.low)
        } else if i128::from(bounds.max) < number {
            format!("at most {}{}", bounds.max, bounds.high)
        } else {
            let value = u64::try_from(number).expect("it is within the bounds, which are u64");
            let place = said.place;
            return Some(Said { value, place });
        };
        self.mistyped(part, key, &said, &wrong);
        None
    }

    /// A whole number within its bounds, else its default, which the table of keys has.
    pub(super) fn int_or_default(&mut self, part: &Part<'a>, key: &str) -> u64 {
        let default = match part.section.key(key).map(|it| it.shape) {
            Some(Shape::Int(bounds)) => bounds.default,
            _ => None,
        };
        let default = default.expect("the table of keys has a default for it");
        self.int(part, key).map_or(default, |it| it.value)
    }

    /// As [`Reader::int`], for bounds below 2^32.
    pub(super) fn small(&mut self, part: &Part<'a>, key: &str) -> Option<u32> {
        let value = self.int(part, key)?.value;
        Some(u32::try_from(value).expect("its bounds are below 2^32"))
    }

    /// `true` or `false`; the default when nothing good was said.
    pub(super) fn bool(&mut self, part: &Part<'a>, key: &str) -> bool {
        let Some(Shape::Bool { default }) = part.section.key(key).map(|it| it.shape) else {
            unreachable!("{key} is a bool of the table of keys");
        };
        let Some(said) = self.raw(part, key) else {
            return default;
        };
        let value = match &said.value {
            Raw::Toml(it) => it.as_bool(),
            Raw::Variable(text) => text.trim().parse().ok(),
        };
        if value.is_none() {
            self.mistyped(part, key, &said, "true or false, without quotes");
        }
        value.unwrap_or(default)
    }

    /// A string that isn't empty, one of the key's words where it has some.
    pub(super) fn text(&mut self, part: &Part<'a>, key: &str) -> Option<Said<String>> {
        let said = self.raw(part, key)?;
        let text = match &said.value {
            Raw::Toml(it) => it.as_str().map(str::to_owned),
            Raw::Variable(text) => Some(text.clone()),
        };
        let Some(text) = text else {
            self.mistyped(part, key, &said, "a string, in quotes");
            return None;
        };
        let wrong = match part.section.key(key).map(|it| it.shape) {
            _ if text.trim().is_empty() => Some("is empty; leave the key out instead".to_owned()),
            _ if text.chars().any(char::is_control) => Some("holds a control character".to_owned()),
            Some(Shape::Word { of, .. }) if !of.contains(&text.as_str()) => {
                let near = did_you_mean(&text, of.iter().copied());
                Some(format!("one of {}{near}", of.join(", ")))
            }
            _ => None,
        };
        match wrong {
            Some(wrong) => {
                self.mistyped(part, key, &said, &wrong);
                None
            }
            None => Some(Said {
                value: text,
                place: said.place,
            }),
        }
    }

    /// A string, else its default, which the table of keys has.
    pub(super) fn text_or_default(&mut self, part: &Part<'a>, key: &str) -> Said<String> {
        let default = match part.section.key(key).map(|it| it.shape) {
            Some(Shape::Text { default } | Shape::Word { default, .. }) => default,
            Some(Shape::Address { default }) => Some(default),
            _ => None,
        };
        let default = default.expect("the table of keys has a default for it");
        self.text(part, key).unwrap_or_else(|| Said {
            value: default.to_owned(),
            place: Place::Nowhere,
        })
    }

    /// A key that must be said, and wasn't.
    pub(super) fn missing(&mut self, part: &Part<'a>, key: &str, advice: &str) {
        if part.table.is_some_and(|it| it.get(key).is_some()) {
            return; // it was said, and what is wrong with it was told
        }
        let place = part.place.clone();
        self.wrong(
            &place,
            format!("{}.{key}", part.path),
            None,
            format!("is missing; {advice}"),
        );
    }
}

impl Raw<'_> {
    /// For people. Callers don't show what may hold a secret.
    pub(super) fn shown(&self) -> String {
        const MOST: usize = 60;
        let text = match self {
            Raw::Toml(DeValue::String(text)) => text.to_string(),
            Raw::Toml(DeValue::Integer(it)) => return it.to_string(),
            Raw::Toml(DeValue::Float(it)) => return it.to_string(),
            Raw::Toml(DeValue::Boolean(it)) => return it.to_string(),
            Raw::Toml(DeValue::Datetime(it)) => return it.to_string(),
            Raw::Toml(DeValue::Array(_)) => return "[...]".to_owned(),
            Raw::Toml(DeValue::Table(_)) => return "{ ... }".to_owned(),
            Raw::Variable(text) => text.clone(),
        };
        match text.char_indices().nth(MOST) {
            Some((at, _)) => format!("{:?}...", &text[..at]),
            None => format!("{text:?}"),
        }
    }
}

/// A key as TOML writes it: bare where it may be, else in quotes.
pub fn shown_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match !name.is_empty() && name.chars().all(bare) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

/// The units of durations, by the end of a key's name, in milliseconds.
const UNITS: [(&str, &str, u64); 3] = [
    ("_ms", "milliseconds", 1),
    ("_s", "seconds", 1_000),
    ("_days", "days", 86_400_000),
];

/// What to write instead of `said`: `"5m"` for seconds is 300.
fn example(key: &str, said: &Raw<'_>, bounds: Bounds) -> String {
    let plain = bounds.default.unwrap_or(bounds.min.max(1));
    if key.ends_with("_micros_per_mtok") {
        return format!("in millionths of a US dollar: 2.50 dollars are {key} = 2500000");
    }
    let Some((_, unit, size)) = UNITS.iter().find(|it| key.ends_with(it.0)) else {
        return format!("such as {key} = {plain}");
    };
    let text = match said {
        Raw::Toml(it) => it.as_str().unwrap_or_default(),
        Raw::Variable(text) => text,
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let factor = match text[digits..].trim() {
        "ms" => Some(1),
        "s" | "sec" => Some(1_000),
        "m" | "min" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        "w" => Some(604_800_000),
        "" => Some(*size),
        _ => None,
    };
    let meant = text[..digits].parse::<u64>().ok().zip(factor);
    let number = match meant.and_then(|(number, factor)| number.checked_mul(factor)) {
        Some(ms) if ms % size == 0 => ms / size,
        _ => plain,
    };
    format!("in {unit} as the name says: {key} = {number}")
}
