//! What is wrong with a configuration, and where: all of it at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file, both counted from 1; columns in characters.
    File {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// In this variable of the environment.
    Variable(String),
    /// Nowhere: what is wrong is that it is missing, or the file itself.
    Nowhere,
}

impl Place {
    /// The place of a byte of the file.
    pub(super) fn of_byte(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |it| it.chars().count())
            + 1;
        let number = |it| u32::try_from(it).unwrap_or(u32::MAX);
        Self::File {
            line: number(line),
            column: number(column),
        }
    }
}

/// One thing that is wrong. Never holds a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError {
    /// Where it was said.
    pub place: Place,
    /// The key's path: `daemon.lease_s`; empty for the whole.
    pub key: String,
    /// What was said, where it is no secret.
    pub said: Option<String>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(said) = &self.said {
            write!(f, " = {said}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// All that is wrong, in the order of the file. One line each when displayed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigErrors {
    /// The file; `None` for the environment alone.
    pub origin: Option<PathBuf>,
    /// At least one.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// One error about the whole.
    pub(super) fn whole(origin: Option<PathBuf>, message: impl Into<String>) -> Self {
        let error = ConfigError {
            place: Place::Nowhere,
            key: String::new(),
            said: None,
            message: message.into(),
        };
        Self {
            origin,
            errors: vec![error],
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = match &self.origin {
            Some(path) => path.display().to_string(),
            None => "configuration".to_owned(),
        };
        for (i, error) in self.errors.iter().enumerate() {
            if 0 < i {
                f.write_str("\n")?;
            }
            match &error.place {
                Place::File { line, column } => write!(f, "{file}:{line}:{column}: {error}")?,
                Place::Variable(name) => write!(f, "{name}: {error}")?,
                Place::Nowhere => write!(f, "{file}: {error}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_in_characters() {
        let text = "a = 1\né = \"ü\" # x\n";
        let at = text.find('#').unwrap();
        assert_eq!(Place::of_byte(text, at), Place::File { line: 2, column: 9 });
        assert_eq!(
            Place::of_byte(text, 999),
            Place::File { line: 3, column: 1 }
        );
    }
}
