//! API tokens: how they are written, what they may do, and whether they still count. Pure, but for the
//! random bytes of a new one.
//!
//! A token is `pw_<id>_<secret>`: 16 hexadecimal digits that name it, and 256 random bits in base64url
//! (43 characters). The id is no secret; of the secret only its SHA-256 is kept anywhere: it is random
//! enough that no slow hash is needed.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng as _;
use rand::rngs::SysRng;
use secrecy::SecretString;
use serde::{Serialize, Serializer};
use subtle::ConstantTimeEq as _;

use crate::clock::Time;
use crate::job::envelope::is_name;
use crate::json::{Digest, did_you_mean};
use crate::outcome::words;

/// What every token begins with.
pub const PREFIX: &str = "pw_";
/// The secret's length in bytes: 256 bits.
const SECRET_BYTES: usize = 32;
/// The id's length in hexadecimal digits: 64 bits.
const ID_DIGITS: usize = 16;
/// The longest name of a token, in characters.
pub const NAME_MAX: usize = 100;

/// Which token: its name to the ledger, and no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for TokenId {
    type Err = String;

    /// Reads the digits, `pw_` before them, or the whole token. What was said is not repeated: it may
    /// hold the secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix(PREFIX).unwrap_or(text);
        let digits = rest.split('_').next().unwrap_or_default();
        id(digits.as_bytes()).ok_or_else(|| {
            format!(
                "this is no token's id: write its {ID_DIGITS} hexadecimal digits, as `presswork tokens list` shows them"
            )
        })
    }
}

/// One spelling each: small letters.
fn id(digits: &[u8]) -> Option<TokenId> {
    let plain = |it: &u8| matches!(it, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != ID_DIGITS || !digits.iter().all(plain) {
        return None;
    }
    let digits = std::str::from_utf8(digits).ok()?;
    u64::from_str_radix(digits, 16).ok().map(TokenId)
}

/// A token as somebody shows it: which one they say it is, and the digest of what they say is its secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Which one.
    pub id: TokenId,
    digest: Digest,
}

impl Shown {
    /// Reads `pw_<id>_<secret>`; `None` for anything else, which needn't be looked for.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX.as_bytes())?;
        let (digits, rest) = rest.split_at_checked(ID_DIGITS)?;
        let secret = rest.strip_prefix(b"_")?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).ok()?;
        let is_whole = bytes.len() == SECRET_BYTES;
        is_whole.then_some(Self {
            id: id(digits)?,
            digest: Digest::of_bytes(&bytes),
        })
    }

    /// Whether this is that token; the time that it takes tells nothing of the secret.
    pub fn is(&self, token: &Token) -> bool {
        (self.id == token.id) & bool::from(self.digest.0.ct_eq(&token.digest.0))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_***", self.id)
    }
}

/// A new token: the only moment at which its text is known.
pub struct Minted {
    /// Its name to the ledger.
    pub id: TokenId,
    /// The SHA-256 of its secret: what is kept.
    pub digest: Digest,
    /// The token as it is shown once.
    pub text: SecretString,
}

impl Minted {
    /// A token of random bytes of the operating system.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn new() -> Result<Self, String> {
        let mut bytes = [0; SECRET_BYTES + 8];
        let filled = SysRng.try_fill_bytes(&mut bytes);
        filled.map_err(|e| format!("the system gives no random bytes: {e}"))?;
        let (secret, number) = bytes.split_at(SECRET_BYTES);
        let number = number.iter().fold(0, |sum, it| sum << 8 | u64::from(*it));
        let id = TokenId(number);
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Ok(Self {
            id,
            digest: Digest::of_bytes(secret),
            text: text.into(),
        })
    }
}

/// Which kinds of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Every one.
    All,
    /// Those whose name begins like this: `enqueue:post.*`.
    Like(String),
    /// This one.
    One(String),
}

impl Kinds {
    fn has(&self, kind: &str) -> bool {
        match self {
            Self::All => true,
            Self::Like(start) => kind.starts_with(start.as_str()),
            Self::One(name) => kind == name,
        }
    }
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Making jobs of these kinds.
    Enqueue(Kinds),
    /// Looking at jobs, their receipts, and the metrics.
    Read,
    /// What [`Scope::Read`] is for, and what operators do to jobs; shows why things went wrong.
    Operate,
    /// Everything.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enqueue(Kinds::All) => f.write_str("enqueue"),
            Self::Enqueue(Kinds::Like(start)) => write!(f, "enqueue:{start}*"),
            Self::Enqueue(Kinds::One(name)) => write!(f, "enqueue:{name}"),
            Self::Read => f.write_str("read"),
            Self::Operate => f.write_str("operate"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WORDS: [&str; 4] = ["enqueue", "read", "operate", "admin"];
        let kinds = text.strip_prefix("enqueue:");
        match (text, kinds) {
            ("enqueue" | "enqueue:*", _) => Ok(Self::Enqueue(Kinds::All)),
            ("read", _) => Ok(Self::Read),
            ("operate", _) => Ok(Self::Operate),
            ("admin", _) => Ok(Self::Admin),
            (_, Some(kinds)) => match kinds.strip_suffix('*') {
                Some(start) if is_name(start) => Ok(Self::Enqueue(Kinds::Like(start.to_owned()))),
                None if is_name(kinds) => Ok(Self::Enqueue(Kinds::One(kinds.to_owned()))),
                _ => Err(format!(
                    "`{text}` names no kind: write enqueue:post.mastodon, enqueue:post.* for all that begin so, or enqueue"
                )),
            },
            _ => Err(format!(
                "`{text}` is no scope; there are enqueue, enqueue:KIND, read, operate and admin{}",
                did_you_mean(text, WORDS)
            )),
        }
    }
}

/// What somebody may do, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// What it is for; any one of them is enough.
    pub scopes: Vec<Scope>,
    /// Whose jobs it makes and sees; `None`: everybody's.
    pub tenant: Option<String>,
}

/// What is asked of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// To make a job of some kind or other: which one is only known once it is read.
    Making,
    /// To make a job of this kind.
    Enqueue(&'a str),
    /// To look at jobs.
    Read,
    /// To read what concerns all tenants at once: the metrics.
    Figures,
    /// To change what becomes of jobs, and to be told why they failed in an operator's words.
    Operate,
    /// To change what becomes of everybody's jobs at once: stops.
    OperateAll,
}

impl fmt::Display for Asked<'_> {
    /// The scope that is needed, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Making => f.write_str("enqueue"),
            Self::Enqueue(kind) => write!(f, "enqueue:{kind}"),
            Self::Read | Self::Figures => f.write_str("read"),
            Self::Operate | Self::OperateAll => f.write_str("operate"),
        }
    }
}

impl Grant {
    /// Everything, for everybody: that of whoever shows the configured token, or needn't show one.
    pub fn all() -> Self {
        Self {
            scopes: vec![Scope::Admin],
            tenant: None,
        }
    }

    /// A grant of scopes in one text, separated by spaces, as the ledger keeps them.
    ///
    /// # Errors
    /// When one of them is no scope, or there is none.
    pub fn read(scopes: &str, tenant: Option<String>) -> Result<Self, String> {
        let scopes = scopes.split(' ').map(str::parse);
        let scopes = scopes.collect::<Result<Vec<Scope>, String>>()?;
        Ok(Self { scopes, tenant })
    }

    /// Its scopes in one text.
    pub fn words(&self) -> String {
        let words: Vec<String> = self.scopes.iter().map(ToString::to_string).collect();
        words.join(" ")
    }

    /// Whether this may be done.
    pub fn may(&self, asked: Asked<'_>) -> bool {
        let of_all = matches!(asked, Asked::Figures | Asked::OperateAll);
        !(of_all && self.tenant.is_some()) && self.scopes.iter().any(|it| allows(it, asked))
    }

    /// Whether jobs of this tenant are there for it.
    pub fn sees(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|it| it == tenant)
    }
}

fn allows(scope: &Scope, asked: Asked<'_>) -> bool {
    match (scope, asked) {
        (Scope::Admin, _) => true,
        (Scope::Operate, Asked::Making | Asked::Enqueue(_)) => false,
        (Scope::Operate, _) => true,
        (Scope::Read, Asked::Read | Asked::Figures) => true,
        (Scope::Read, _) => false,
        (Scope::Enqueue(_), Asked::Making) => true,
        (Scope::Enqueue(kinds), Asked::Enqueue(kind)) => kinds.has(kind),
        (Scope::Enqueue(_), _) => false,
    }
}

words! {
    /// Whether a token counts.
    Standing {
        /// It does.
        Good = "good",
        /// It did until its time was over.
        Expired = "expired",
        /// Somebody took it back.
        Revoked = "revoked",
    }
}

/// A token as the ledger keeps it: all but the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Which one.
    pub id: TokenId,
    /// What people call it: who has it, and for what.
    pub name: String,
    /// The SHA-256 of its secret; of no use to people.
    #[serde(skip)]
    pub digest: Digest,
    /// What it may do.
    #[serde(flatten)]
    pub grant: Grant,
    /// When it was made; written by the ledger's clock, ignored on the way in.
    pub created_at: Time,
    /// Who made it.
    pub created_by: String,
    /// When it ends; `None`: when it is revoked.
    pub expires_at: Option<Time>,
    /// When it was taken back.
    pub revoked_at: Option<Time>,
    /// When it was last used, give or take a minute.
    pub last_used_at: Option<Time>,
}

impl Token {
    /// Whether it counts at this time, by the ledger's clock.
    pub fn standing(&self, now: Time) -> Standing {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => Standing::Revoked,
            (None, Some(until)) if until <= now => Standing::Expired,
            (None, _) => Standing::Good,
        }
    }
}

/// Whether a text is fit to be a token's name.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=NAME_MAX).contains(&name.chars().count());
    match fits && !name.contains(char::is_control) && !name.contains(PREFIX) {
        true => Ok(()),
        false => Err(format!(
            "a token's name has 1 to {NAME_MAX} characters, on one line, and no token in it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn token(minted: &Minted) -> Token {
        Token {
            id: minted.id,
            name: "n".to_owned(),
            digest: minted.digest,
            grant: Grant::all(),
            created_at: Time::UNIX_EPOCH,
            created_by: "ann".to_owned(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn a_token_is_itself_and_no_other() {
        let (one, other) = (Minted::new().unwrap(), Minted::new().unwrap());
        let text = one.text.expose_secret();
        assert_eq!(text.len(), 3 + 16 + 1 + 43, "{}", text.len());
        let shown = Shown::parse(text.as_bytes()).unwrap();
        assert!(shown.is(&token(&one)) && !shown.is(&token(&other)));
        // the right secret under another id, and the other way round
        let foreign = Token {
            id: other.id,
            ..token(&one)
        };
        assert!(!shown.is(&foreign));
        let foreign = Token {
            digest: other.digest,
            ..token(&one)
        };
        assert!(!shown.is(&foreign));
        assert!(!format!("{shown:?}").contains(&text[20..]));
        assert_eq!(text.parse(), Ok(one.id));
        assert_eq!(format!("pw_{}", one.id).parse(), Ok(one.id));
        assert_eq!(one.id.to_string().parse(), Ok(one.id));
    }

    #[test]
    fn what_is_no_token_is_not_looked_for_and_not_repeated() {
        let good = format!("pw_0123456789abcdef_{}", "A".repeat(43));
        assert!(Shown::parse(good.as_bytes()).is_some());
        for bad in [
            String::new(),
            "pw_".to_owned(),
            good.replace("pw_", "PW_"),
            good.replace('a', "A"),
            format!("{good}A"),
            format!("{good}="),
            good[..good.len() - 1].to_owned(),
            // two spellings of the same bits
            format!("{}B", &good[..good.len() - 1]),
            good.replace("f_", "f-"),
            good.replace("AA", "A A"),
            format!("pw_é123456789abcde_{}", "A".repeat(43)),
        ] {
            assert_eq!(Shown::parse(bad.as_bytes()), None, "{bad}");
        }
        let e = "pw_xyz_hunter2".parse::<TokenId>().unwrap_err();
        assert!(!e.contains("hunter2") && e.contains("tokens list"), "{e}");
    }

    #[test]
    fn each_scope_allows_this_and_nothing_else() {
        let asked = [
            Asked::Making,
            Asked::Enqueue("post.x"),
            Asked::Enqueue("post"),
            Asked::Enqueue("generate.text"),
            Asked::Read,
            Asked::Figures,
            Asked::Operate,
            Asked::OperateAll,
        ];
        for (scopes, may) in [
            ("enqueue", "yyyy...."),
            ("enqueue:*", "yyyy...."),
            ("enqueue:post.*", "yy......"),
            ("enqueue:post.x", "yy......"),
            ("enqueue:post", "y.y....."),
            ("read", "....yy.."),
            ("operate", "....yyyy"),
            ("admin", "yyyyyyyy"),
            ("enqueue:generate.* read", "y..yyy.."),
            ("operate enqueue:post.x", "yy..yyyy"),
        ] {
            let grant = Grant::read(scopes, None).unwrap();
            let told = asked.map(|it| if grant.may(it) { 'y' } else { '.' });
            assert_eq!(String::from_iter(told), may, "{scopes}");
            // bound to a tenant it may do the same, but read what concerns all
            let bound = Grant::read(scopes, Some("acme".to_owned())).unwrap();
            for it in asked {
                let of_all = matches!(it, Asked::Figures | Asked::OperateAll);
                assert_eq!(bound.may(it), grant.may(it) && !of_all);
            }
            assert!(grant.sees("acme") && grant.sees("other"));
            assert!(bound.sees("acme") && !bound.sees("other"));
        }
    }

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for words in ["enqueue", "enqueue:post.* read", "enqueue:a operate admin"] {
            assert_eq!(Grant::read(words, None).unwrap().words(), words);
        }
        for (bad, says) in [
            ("", "is no scope"),
            ("raed", "did you mean `read`"),
            ("Read", "is no scope"),
            ("enqueue:", "names no kind"),
            ("enqueue:a*b", "names no kind"),
            ("enqueue:**", "names no kind"),
            ("enqueue:a  read", "is no scope"),
        ] {
            let e = Grant::read(bad, None).unwrap_err();
            assert!(e.contains(says), "{bad}: {e}");
        }
    }

    #[test]
    fn a_token_counts_until_its_time_or_its_revocation() {
        let now = Time::UNIX_EPOCH;
        let second = chrono::Duration::seconds(1);
        let at = |expires: Option<Time>, revoked: Option<Time>| {
            let token = Token {
                expires_at: expires,
                revoked_at: revoked,
                ..token(&Minted::new().unwrap())
            };
            token.standing(now)
        };
        assert_eq!(at(None, None), Standing::Good);
        assert_eq!(at(Some(now + second), None), Standing::Good);
        assert_eq!(at(Some(now), None), Standing::Expired);
        assert_eq!(at(Some(now - second), Some(now)), Standing::Revoked);
        assert_eq!(at(None, Some(now)), Standing::Revoked);
    }
}
