//! What is told of a budget that holds a request back.

use crate::budget::{Form, KeptBack, Key, NEVER, PACE, RELAXING};
use crate::clock::{Time, stamp};
use crate::lateness::paced;

/// Whose part it is, as the end of a phrase.
pub(super) fn whose(key: &Key) -> String {
    match key.whose.as_str() {
        "" => String::new(),
        whose => format!(" of `{whose}`"),
    }
}

/// No room is left in a part of a budget.
pub(super) fn full(key: &Key, form: &Form, used: u64, at: Time) -> String {
    if let (PACE, Form::Rolling { window, .. }) = (key.name.as_str(), form) {
        return paced(&key.whose, *window, at);
    }
    if key.name == RELAXING {
        return format!(
            "account `{}` comes back slowly after its platform asked for less: {used} of {} requests are under way",
            key.whose,
            form.most()
        );
    }
    let whose = whose(key);
    let (used, most) = (form.amount(used), form.amount(form.most()));
    let when = match at == NEVER {
        true => "one request takes more than it ever allows: raise `most` in jobs.toml".to_owned(),
        false => format!("it has room again at {}", stamp(at)),
    };
    format!(
        "budget `{}`{whose} is used up ({used} of {most}): {when}",
        key.name
    )
}

/// It would fit, but places are kept.
pub(super) fn kept_back(key: &Key, form: &Form, used: u64, back: &KeptBack) -> String {
    let (name, whose) = (&key.name, whose(key));
    let (used, most) = (form.amount(used), form.amount(form.most()));
    let when = match back.at == NEVER {
        true => "until those have run".to_owned(),
        false => format!("until {}", stamp(back.at)),
    };
    format!(
        "budget `{name}`{whose}: {} ({used} of {most} used); what wasn't scheduled waits {when}",
        back.told()
    )
}
