//! Whether a message really comes from whom it says: signatures as Standard Webhooks has them.
//!
//! The signature is over the bytes as they came, and nothing of them is read before it fits. It is told
//! from a wrong one in a time that hangs on nothing secret.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{TimeDelta, TimeZone as _, Utc};
use subtle::ConstantTimeEq as _;

use crate::clock::Time;
use crate::platform::endpoint::digest;

/// A message may be so old, or from so far ahead, by this host's clock.
pub const WINDOW: TimeDelta = TimeDelta::minutes(5);
/// Bytes of a message's id, and of all its signatures.
const ID_MAX: usize = 255;
const SIGNATURES_MAX: usize = 4_096;
/// Signatures that are looked at: a sender that changes its key sends two.
const MANY: usize = 8;

/// What a message says of itself, before its bytes are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message's id: the same each time that it is sent.
    pub id: String,
    /// When it was signed, in seconds since 1970, as it was written.
    at: String,
    /// Its signatures that may fit: the digests that they should equal.
    signatures: Vec<Vec<u8>>,
}

impl Claim {
    /// Reads the headers of a message that came at `now`.
    ///
    /// # Errors
    /// What is missing or out of its bounds. It says nothing of accounts or keys.
    pub fn read(headers: &HeaderMap, now: Time) -> Result<Self, &'static str> {
        let one = |name: &str| {
            let mut all = headers.get_all(name).iter();
            let first = all.next().and_then(|it| it.to_str().ok());
            first.filter(|_| all.next().is_none())
        };
        let id = one("webhook-id").ok_or("webhook-id is missing, or there twice")?;
        // a dot would let one message's id end in what another's begins with
        let plain = |b: u8| b.is_ascii_graphic() && b != b'.';
        if !(1..=ID_MAX).contains(&id.len()) || !id.bytes().all(plain) {
            return Err("webhook-id has 1 to 255 visible characters without a dot");
        }
        let at = one("webhook-timestamp").ok_or("webhook-timestamp is missing, or there twice")?;
        let digits = at.bytes().all(|b| b.is_ascii_digit());
        let seconds = at.parse().ok().filter(|_| digits);
        let moment = seconds.and_then(|it| Utc.timestamp_opt(it, 0).single());
        let moment = moment.ok_or("webhook-timestamp is a number of seconds since 1970")?;
        if WINDOW < (now - moment).abs() {
            return Err(
                "webhook-timestamp lies outside of five minutes around now by this host's clock",
            );
        }
        let said =
            one("webhook-signature").ok_or("webhook-signature is missing, or there twice")?;
        if SIGNATURES_MAX < said.len() {
            return Err("webhook-signature is too long");
        }
        // other versions are other ways to sign, which nobody here has a key for
        let known = said.split(' ').filter_map(|it| it.strip_prefix("v1,"));
        let decoded = known.filter_map(|it| STANDARD.decode(it).ok());
        let signatures: Vec<Vec<u8>> = decoded.take(MANY).collect();
        Ok(Self {
            id: id.to_owned(),
            at: at.to_owned(),
            signatures,
        })
    }

    /// Whether one of the signatures was made with `key`, over this id, this time and these bytes.
    pub fn fits(&self, key: &[u8], body: &[u8]) -> bool {
        let expected = digest(key, &self.id, &self.at, body);
        let mut fits = subtle::Choice::from(0);
        for it in &self.signatures {
            fits |= expected.as_slice().ct_eq(it);
        }
        fits.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::webhook_key;
    use proptest::prelude::*;

    // the example of the official libraries
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn headers(id: &str, at: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", at),
            ("webhook-signature", signature),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn now() -> Time {
        Utc.timestamp_opt(AT, 0).unwrap()
    }

    fn fits(signature: &str, body: &[u8]) -> bool {
        let claim = Claim::read(&headers(ID, &AT.to_string(), signature), now()).unwrap();
        claim.fits(&webhook_key(&SECRET.into()).unwrap(), body)
    }

    #[test]
    fn the_official_example_fits_and_nothing_like_it() {
        assert!(fits(SIGNATURE, BODY));
        assert!(!fits(SIGNATURE, br#"{"test": 2432232315}"#));
        assert!(
            !fits(SIGNATURE, br#"{"test":2432232314}"#),
            "the bytes, not what they mean"
        );
        for wrong in [
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OF=",
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1A==",
            "v1,",
            "v1",
            "",
            "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ] {
            assert!(!fits(wrong, BODY), "{wrong}");
        }
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let claim = Claim::read(&headers(ID, &AT.to_string(), SIGNATURE), now()).unwrap();
        assert!(!claim.fits(&webhook_key(&other.into()).unwrap(), BODY));
    }

    #[test]
    fn one_of_several_signatures_will_do() {
        let other = STANDARD.encode([7; 32]);
        assert!(fits(&format!("v1,{other} {SIGNATURE}"), BODY));
        assert!(fits(&format!("v1a,{other} {SIGNATURE} v1,{other}"), BODY));
        assert!(!fits(&format!("v1,{other} v1,{other}"), BODY));
        // not so many that it costs
        let many = format!("v1,{other} ").repeat(MANY);
        assert!(!fits(&format!("{many}{SIGNATURE}"), BODY));
    }

    #[test]
    fn id_and_time_are_signed_too() {
        let key = webhook_key(&SECRET.into()).unwrap();
        let of = |id: &str, at: &str| {
            let claim = Claim::read(&headers(id, at, SIGNATURE), now()).unwrap();
            claim.fits(&key, BODY)
        };
        assert!(of(ID, &AT.to_string()));
        assert!(!of("msg_p5jXN8AQM9LWM0D4loKWxJeK", &AT.to_string()));
        assert!(!of(ID, &(AT + 1).to_string()));
        assert!(
            !of(ID, &format!("0{AT}")),
            "the spelling is signed, not the number"
        );
    }

    #[test]
    fn the_time_must_be_near() {
        let at = |seconds: i64| {
            let read = Claim::read(&headers(ID, &(AT + seconds).to_string(), SIGNATURE), now());
            read.is_ok()
        };
        for (seconds, near) in [
            (0, true),
            (-300, true),
            (300, true),
            (-301, false),
            (301, false),
        ] {
            assert_eq!(at(seconds), near, "{seconds}");
        }
    }

    #[test]
    fn what_is_missing_or_odd_is_refused_before_any_key_is_tried() {
        let good = || headers(ID, &AT.to_string(), SIGNATURE);
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut gone = good();
            gone.remove(name);
            assert!(Claim::read(&gone, now()).is_err(), "{name}");
            let mut twice = good();
            twice.append(name, twice[name].clone());
            assert!(Claim::read(&twice, now()).is_err(), "{name} twice");
        }
        let long = "x".repeat(ID_MAX + 1);
        for (id, at) in [
            ("a.b", "1614265330"),
            ("", "1614265330"),
            (&long, "1614265330"),
            (ID, "soon"),
            (ID, "-1614265330"),
            (ID, "1614265330.0"),
            (ID, "99999999999999999999"),
            (ID, "9223372036854775807"),
            (ID, ""),
        ] {
            assert!(
                Claim::read(&headers(id, at, SIGNATURE), now()).is_err(),
                "{id} {at}"
            );
        }
        let long = "v1,x ".repeat(1_000);
        assert!(Claim::read(&headers(ID, &AT.to_string(), &long), now()).is_err());
    }

    proptest! {
        #[test]
        fn no_header_panics(id in "[ -~]{0,40}", at in "[ -~]{0,24}", said in "[ -~]{0,80}", body: Vec<u8>) {
            if let Ok(claim) = Claim::read(&headers(&id, &at, &said), now()) {
                prop_assert!(!claim.fits(&[1; 24], &body));
            }
            let signed = headers(ID, &AT.to_string(), &said);
            if let Ok(claim) = Claim::read(&signed, now()) {
                prop_assert!(!claim.fits(&[1; 24], &body));
            }
        }
    }
}
