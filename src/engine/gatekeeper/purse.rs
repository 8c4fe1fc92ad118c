//! A part of a budget that counts money, and what is reserved of it.

use super::asks::Debt;
use crate::budget::{Counted, Form, Hold};

/// A part of a budget that counts money, as it was read.
pub struct Purse {
    pub(super) form: Form,
    pub(super) row: Counted,
}

impl Purse {
    /// What is reserved of it, each by its name.
    pub fn reserved(&self) -> impl Iterator<Item = (&String, &Hold)> {
        self.row.uses.holds().iter()
    }

    /// What is owed for one of what is reserved.
    pub fn debt(&self, (name, hold): (&String, &Hold)) -> Debt {
        Debt {
            key: self.row.key.clone(),
            form: self.form,
            name: name.clone(),
            by: hold.by,
        }
    }
}
