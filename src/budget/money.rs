//! Money: whole millionths of a currency's unit, and what a send is about to cost.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A currency by its three letters (ISO 4217).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The US dollar, in which most models are paid for.
    pub const USD: Self = Self(*b"USD");
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // three ASCII letters, as all that makes one checks
        f.pad(std::str::from_utf8(&self.0).unwrap_or("???"))
    }
}

impl FromStr for Currency {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let letters = <[u8; 3]>::try_from(text.as_bytes()).ok();
        let letters = letters.filter(|it| it.iter().all(u8::is_ascii_uppercase));
        letters
            .map(Self)
            .ok_or("a currency by its three capital letters, such as \"USD\" or \"EUR\"")
    }
}

/// Millionths of a unit.
const UNIT: u64 = 1_000_000;

/// An amount for people: `20.00`, `0.001234`.
pub fn money(micros: u64) -> String {
    let rest = format!("{:06}", micros % UNIT);
    let cents = rest.trim_end_matches('0').len().max(2);
    format!("{}.{}", micros / UNIT, &rest[..cents])
}

/// An amount as people write it, in millionths: `20`, `20.00`, `0.001234`.
pub fn micros(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |it: &str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(rest) || 6 < rest.len() {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let rest: u64 = format!("{rest:0<6}").parse().ok()?;
    whole.checked_mul(UNIT)?.checked_add(rest)
}

/// What a send costs, as far as it is known before.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Price {
    /// Nothing that is counted.
    #[default]
    Free,
    /// No more than so many millionths, as far as anybody can say.
    About(u64, Currency),
    /// Something, and nobody said how much: what to write, for people.
    Unknown(String),
}

impl Price {
    /// In a budget's currency.
    ///
    /// # Errors
    /// Why it can't be said, and what to do.
    pub fn within(&self, of: Currency) -> Result<u64, String> {
        match self {
            Self::Free => Ok(0),
            Self::About(micros, currency) if *currency == of => Ok(*micros),
            Self::About(_, currency) => Err(format!(
                "its price is in {currency}, and the budget counts {of}: say the price in {of}, or let the budget count {currency}"
            )),
            Self::Unknown(why) => Err(why.clone()),
        }
    }
}

/// A send that is paid for.
#[derive(Clone, Debug, PartialEq)]
pub struct Spend {
    /// The job.
    pub job: Uuid,
    /// The effect.
    pub effect: Uuid,
    /// The number that this send gets, from 1.
    pub send: u32,
    /// Each send is paid for, and not only the one that acts.
    pub each: bool,
    /// Sends before it have no known answer: it is the same debt, where not each is paid for.
    pub repeats: bool,
    /// Who sends it: the lease's token. Of several that would, one at most is permitted.
    pub by: Uuid,
    /// What it costs.
    pub price: Price,
}

impl Spend {
    /// Under which name it is reserved.
    pub fn name(&self) -> String {
        match self.each {
            true => format!("{}:{}", self.effect, self.send),
            false => self.effect.to_string(),
        }
    }
}

/// What became of what was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// It cost so many millionths.
    Cost(u64),
    /// It happened, and nobody knows the cost: the estimate stands for it.
    Estimate,
    /// It certainly didn't happen.
    Nothing,
}

/// What is reserved for a send of which nobody knows yet what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The job.
    pub job: Uuid,
    /// The effect.
    pub effect: Uuid,
    /// The number of the send, from 1.
    pub send: u32,
    /// Each send is paid for.
    pub each: bool,
    /// Who reserved it: the lease's token.
    pub by: Uuid,
    /// How much, in millionths.
    pub micros: u64,
    /// The period in which it counts.
    pub period: i64,
    /// When, by the ledger's clock, in microseconds since 1970.
    pub at: i64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_written_as_people_do() {
        for (text, amount) in [
            ("20", Some(20_000_000)),
            ("20.00", Some(20_000_000)),
            ("0.5", Some(500_000)),
            ("0.001234", Some(1_234)),
            ("0.0012345", None),
            ("-1", None),
            ("1,50", None),
            ("1.", None),
            (".5", None),
            ("1e3", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(micros(text), amount, "{text}");
        }
        assert_eq!(money(20_000_000), "20.00");
        assert_eq!(money(1_234), "0.001234");
        assert_eq!(money(500_000), "0.50");
    }

    #[test]
    fn a_currency_has_three_capital_letters() {
        assert_eq!("USD".parse(), Ok(Currency::USD));
        for text in ["usd", "US", "USDT", "€€€", ""] {
            assert!(text.parse::<Currency>().is_err(), "{text}");
        }
    }

    #[test]
    fn prices_of_another_currency_are_not_mixed() {
        let euro: Currency = "EUR".parse().unwrap();
        assert_eq!(Price::About(7, euro).within(euro), Ok(7));
        let why = Price::About(7, euro).within(Currency::USD).unwrap_err();
        assert!(why.contains("EUR") && why.contains("USD"), "{why}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(amount: u64) {
            prop_assert_eq!(micros(&money(amount)), Some(amount));
        }

        #[test]
        fn no_text_panics(text in ".{0,30}") {
            micros(&text);
        }
    }
}
