//! Who an account is at its platform, and whether other credentials are the same person's. Pure.

use std::fmt;

use serde::Serialize;

use crate::sabotage;

/// The longest id and the longest name, in characters.
const MOST: usize = 200;

/// Who an account is, as its platform says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Person {
    /// The platform's own id of it, which stays whatever it is called.
    pub id: String,
    /// What it is called there, as in `@name`; empty where that wasn't told.
    pub name: String,
}

impl Person {
    /// As a platform tells it. `None`: that is no id.
    pub fn told(id: &str, name: &str) -> Option<Self> {
        let unfit = |c: char| c.is_control() || c.is_whitespace();
        if id.is_empty() || MOST < id.chars().count() || id.contains(unfit) {
            return None;
        }
        let name = name.trim_start_matches('@').chars();
        Some(Self {
            id: id.to_owned(),
            name: name.filter(|c| !unfit(*c)).take(MOST).collect(),
        })
    }
}

/// `@name (id 7)`.
impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "the id {}", self.id),
            name => write!(f, "@{name} (id {})", self.id),
        }
    }
}

/// Whose credentials are, as far as their platform tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This person's.
    Of(Person),
    /// The platform tells nothing of that.
    Untold,
    /// It was asked in vain: why, for people.
    Unknown(String),
}

impl Whose {
    /// Who that is, where it is known.
    pub const fn person(&self) -> Option<&Person> {
        match self {
            Self::Of(it) => Some(it),
            Self::Untold | Self::Unknown(_) => None,
        }
    }
}

/// Whether other credentials may take the place of those of an account: who it is then, as far as that is
/// known. An account that nobody knows the person of takes any.
///
/// # Errors
/// When they are somebody else's, or may be, and nobody insists: for people.
pub fn fits(
    account: &str,
    was: Option<&Person>,
    whose: &Whose,
    insists: bool,
) -> Result<Option<Person>, String> {
    let is = whose.person().cloned();
    let Some(was) = was.filter(|_| !insists && !sabotage!("login.person")) else {
        return Ok(is);
    };
    match (is, whose) {
        (Some(is), _) if is.id == was.id => Ok(Some(is)),
        (Some(is), _) => Err(format!(
            "the new credentials are of {is}, and account `{account}` is of {was}; nothing was changed: take those of {was}, or add another account for {is}, or insist by --replace, and the jobs of `{account}` go out as {is}"
        )),
        (None, Whose::Unknown(why)) => Err(format!(
            "account `{account}` is of {was}, and whose the new credentials are isn't known ({why}); nothing was changed: try again in a moment, or insist by --replace"
        )),
        (None, _) => Err(format!(
            "account `{account}` is of {was}, and its platform doesn't tell whose the new credentials are; nothing was changed: insist by --replace, if they are the same person's"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(id: &str, name: &str) -> Person {
        Person::told(id, name).unwrap()
    }

    #[test]
    fn only_who_it_was_is_let_in_unless_somebody_insists() {
        let (ada, bob) = (person("7", "@ada"), person("42", "bob"));
        let renamed = person("7", "countess");
        let lost = Whose::Unknown("no answer within 6 s".to_owned());
        for (was, whose, insists, wanted) in [
            (None, Whose::Of(bob.clone()), false, Ok(Some(&bob))),
            (None, Whose::Untold, false, Ok(None)),
            (None, lost.clone(), false, Ok(None)),
            (Some(&ada), Whose::Of(ada.clone()), false, Ok(Some(&ada))),
            (
                Some(&ada),
                Whose::Of(renamed.clone()),
                false,
                Ok(Some(&renamed)),
            ),
            (
                Some(&ada),
                Whose::Of(bob.clone()),
                false,
                Err("of @bob (id 42), and account `shop` is of @ada (id 7)"),
            ),
            (Some(&ada), Whose::Untold, false, Err("doesn't tell whose")),
            (Some(&ada), lost.clone(), false, Err("no answer within 6 s")),
            (Some(&ada), Whose::Of(bob.clone()), true, Ok(Some(&bob))),
            (Some(&ada), lost.clone(), true, Ok(None)),
        ] {
            let is = fits("shop", was, &whose, insists);
            match (&is, wanted) {
                (Ok(is), Ok(wanted)) => assert_eq!(is.as_ref(), wanted),
                (Err(told), Err(says)) => {
                    assert!(told.contains(says) && told.contains("--replace"), "{told}");
                }
                _ => panic!("{was:?} {whose:?} {insists}: {is:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_id_tells_of_nobody() {
        for id in ["", "a b", "7\n", &"7".repeat(201)] {
            assert_eq!(Person::told(id, "ada"), None, "{id:?}");
        }
        assert_eq!(person("7", "a\u{1b}[31m da").to_string(), "@a[31mda (id 7)");
        assert_eq!(person("7", "").to_string(), "the id 7");
    }
}
