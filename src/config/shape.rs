//! What a table of keys is made of: sections, keys, what they take, and the bounds of numbers.

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A whole number within bounds, both allowed.
    Int(Bounds),
    /// `true` or `false`.
    Bool {
        /// What holds when nothing is said.
        default: bool,
    },
    /// A string.
    Text {
        /// What holds when nothing is said.
        default: Option<&'static str>,
    },
    /// One of these words.
    Word {
        /// The words.
        of: &'static [&'static str],
        /// What holds when nothing is said.
        default: Option<&'static str>,
    },
    /// A secret: by reference only.
    Secret,
    /// Strings between brackets.
    List,
    /// Tables between brackets: an account each, and its model.
    Providers,
    /// Keys between brackets: each its id, and itself by reference.
    Keys,
    /// A table of variables: strings, and secrets by reference.
    Variables,
    /// A store's URL: literal while it holds no password, else by reference.
    Address {
        /// What holds when nothing is said.
        default: &'static str,
    },
}

/// The bounds of a number, and why.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The smallest that is allowed.
    pub min: u64,
    /// Why not less: ", because ...".
    pub low: &'static str,
    /// The largest that is allowed.
    pub max: u64,
    /// Why not more: ", because ...".
    pub high: &'static str,
    /// What holds when nothing is said.
    pub default: Option<u64>,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name; durations carry their unit: `_s`, `_ms`, `_days`.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
}

/// A section.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Whether it has a table for each name: `[lanes.NAME]`.
    pub by_name: bool,
    /// Whether the environment may say its keys.
    pub overlay: bool,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|it| it.name == name)
    }

    /// The variable that says a key, in sections where the environment may.
    pub fn variable(&self, key: &str) -> Option<String> {
        let name = format!("PRESSWORK_{}_{key}", self.name).to_ascii_uppercase();
        self.overlay.then_some(name)
    }
}

/// A whole number: its name, the smallest with why, the largest with why, its default.
pub(super) const fn int(
    name: &'static str,
    (min, low): (u64, &'static str),
    (max, high): (u64, &'static str),
    default: Option<u64>,
) -> Key {
    let bounds = Bounds {
        min,
        low,
        max,
        high,
        default,
    };
    Key {
        name,
        shape: Shape::Int(bounds),
    }
}

/// A key of a shape.
pub(super) const fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, shape }
}

/// A string with a default.
pub(super) const fn text(name: &'static str, default: &'static str) -> Key {
    let default = Some(default);
    key(name, Shape::Text { default })
}

/// A string without a default.
pub(super) const TEXT: Shape = Shape::Text { default: None };
