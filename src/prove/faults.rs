//! Which faults fell upon what was under way.

use super::evidence::{Ms, Sort, Strike};
use super::outside::{Class, Request, class};

/// A kill ends a connection, which its other side has seen by then.
pub const SEEN: Ms = 1_000;

/// The sends of class B and C that were in flight at a fault.
pub fn hit<'a>(
    strikes: &'a [Strike],
    requests: &'a [Request],
) -> impl Iterator<Item = &'a Request> {
    requests
        .iter()
        .filter(|it| fell_on(strikes, it).next().is_some())
}

/// The faults that fell while a send of class B or C was under way. The strikes are in the order in which
/// they fell. A kill hits only the sends of the killed: their connections end with it.
pub fn fell_on<'a>(strikes: &'a [Strike], it: &Request) -> impl Iterator<Item = &'a Strike> {
    let of = matches!(class(&it.op), Some(Class::B | Class::C));
    let end = it.end.unwrap_or(Ms::MAX);
    let from = strikes.partition_point(|strike| strike.at < it.at);
    let until = strikes.partition_point(|strike| strike.at <= end);
    let during = match of {
        true => strikes.get(from..until).unwrap_or_default(),
        false => &[],
    };
    let unanswered = it.status.is_none();
    let cut_off = move |strike: &Strike| unanswered && end <= strike.at + SEEN;
    during
        .iter()
        .filter(|it| it.sort.is_fault())
        .filter(move |it| !it.sort.kills() || cut_off(it))
}

/// Whether a paid call was answered as not done, in the form that the platform documents for that (500 and
/// 503: "retry your request"), although it was: nobody outside can know better.
pub fn denied(it: &Request) -> bool {
    let fault = it.fault.as_deref();
    let lied = matches!(fault, Some("act_500" | "act_503"));
    lied && it.status.is_some() && class(&it.op) == Some(Class::P)
}

/// Whether a fault fell between two moments.
pub fn fault_between(strikes: &[Strike], from: Ms, until: Ms) -> bool {
    let mut strikes = strikes.iter().filter(|it| it.sort.is_fault());
    strikes.any(|it| from <= it.until && it.at <= until)
}

/// Whether the ledger's clock jumped within `within` before a strike: further than a lease lasts, so that
/// for a moment every lease looked as if it had run out.
pub fn jumped_before(strikes: &[Strike], n: usize, within: Ms) -> bool {
    let Some(at) = strikes.iter().find(|it| it.n == n).map(|it| it.at) else {
        return false;
    };
    let mut jumps = strikes.iter().filter(|it| it.sort == Sort::Skew);
    jumps.any(|it| it.at <= at && at <= it.until + within)
}

/// The sort of a strike, by its number.
pub fn sort_of(strikes: &[Strike], n: usize) -> Option<Sort> {
    let found = strikes.iter().find(|it| it.n == n);
    found.map(|it| it.sort)
}
