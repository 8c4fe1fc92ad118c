//! Seals what the ledger keeps of credentials: AES-256-GCM under one of several keys that the ledger
//! never sees. Pure, but for the random bytes of nonces and new keys.
//!
//! What is sealed begins with a byte that names this form (1), then 12 random bytes, the nonce; the rest
//! is what the cipher made, with its tag. Where it stands (table, row, column) and the form are what the
//! tag is of, too: what is moved to another row isn't opened there.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng as _;
use rand::rngs::SysRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::zeroize::{Zeroize as _, Zeroizing};
use secrecy::{ExposeSecret as _, SecretString};

use crate::account::{SEALED_MAX, Sealed};

/// A key's length in bytes.
const KEY_BYTES: usize = 32;
/// How what is sealed begins, in this form.
const FORM: u8 = 1;
/// The longest id of a key, in characters.
const ID_MAX: usize = 64;

/// A key with its name.
#[derive(Clone)]
pub struct Key {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

impl Key {
    /// A key of its text: 32 bytes in base64 or hexadecimal digits.
    ///
    /// # Errors
    /// What is wrong with it, without any of it.
    pub fn read(id: &str, text: &SecretString) -> Result<Self, &'static str> {
        let text = text.expose_secret();
        let bytes = Zeroizing::new(match text.len() {
            64 => hex(text).ok_or(
                "what it names is 64 characters long and no hexadecimal: a key is 32 bytes in base64 or hexadecimal digits, as `presswork accounts new-key` makes one",
            )?,
            _ => STANDARD.decode(text).map_err(|_| {
                "what it names is no base64: a key is 32 bytes in base64 or hexadecimal digits, as `presswork accounts new-key` makes one"
            })?,
        });
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| {
            "what it names isn't 32 bytes long: it was cut, or is something else; `presswork accounts new-key` makes a key"
        })?;
        if bytes.iter().all(|it| *it == bytes[0]) {
            return Err(
                "what it names is one byte 32 times over, which anybody can guess; `presswork accounts new-key` makes a key",
            );
        }
        Ok(Self {
            id: id.to_owned(),
            bytes: Zeroizing::new(bytes),
        })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A new one's text, in base64.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub fn fresh() -> Result<SecretString, String> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(&mut *bytes)?;
        Ok(STANDARD.encode(*bytes).into())
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, &*self.bytes).ok()?;
        Some(LessSafeKey::new(key))
    }
}

/// Whether a key may have this id.
///
/// # Errors
/// What is wrong with it.
pub fn check_id(id: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match !id.is_empty() && id.len() <= ID_MAX && id.chars().all(plain) {
        true => Ok(()),
        false => Err("a key's id has 1 to 64 letters, digits and . _ -, such as \"2026-11\""),
    }
}

fn random(bytes: &mut [u8]) -> Result<(), String> {
    let filled = SysRng.try_fill_bytes(bytes);
    filled.map_err(|e| format!("the system gives no random bytes: {e}"))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |it: u8| {
        (it as char)
            .to_digit(16)
            .and_then(|it| u8::try_from(it).ok())
    };
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|it| Some(digit(it[0])? << 4 | digit(it[1])?))
        .collect()
}

/// Why something wasn't sealed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// There is no key.
    #[error(
        "there is no key to encrypt credentials with: make one (`presswork accounts new-key > FILE`, readable by Presswork alone) and name it in jobs.toml: [vault] keys = [{{ id = \"2026-11\", file = \"FILE\" }}]"
    )]
    NoKey,
    /// The system gave no random bytes, or they are too large.
    #[error("the credentials can't be encrypted: {0}")]
    Failed(String),
}

/// Why something sealed wasn't opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// Its key isn't here.
    #[error(
        "its credentials are encrypted with the key `{0}`, which isn't in [vault] keys on this host"
    )]
    NoKey(String),
    /// It was changed, moved, or sealed with another key of that id.
    #[error(
        "its credentials can't be decrypted: the key `{0}` of [vault] is another one than they were encrypted with, or they were changed or moved in the ledger"
    )]
    Spoilt(String),
}

/// The keys of this host, in order: the first seals, each opens what it sealed.
#[derive(Clone, Debug, Default)]
pub struct Vault {
    keys: Vec<Key>,
}

/// Where something sealed stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The table.
    pub table: &'a str,
    /// The row.
    pub row: &'a str,
    /// The column.
    pub column: &'a str,
}

impl<'a> Place<'a> {
    /// The credentials of an account.
    pub fn credentials(account: &'a str) -> Self {
        Self {
            table: "accounts",
            row: account,
            column: "credentials",
        }
    }

    /// Each part with its length before it, so that no two places read alike.
    fn bound(&self) -> Vec<u8> {
        let mut all = vec![FORM];
        for part in [self.table, self.row, self.column] {
            all.extend((part.len() as u64).to_be_bytes());
            all.extend(part.as_bytes());
        }
        all
    }
}

impl Vault {
    /// Of these keys; no two have the same id.
    pub fn new(keys: Vec<Key>) -> Self {
        Self { keys }
    }

    /// The id of the key that seals. `None`: there is none.
    pub fn first(&self) -> Option<&str> {
        self.keys.first().map(Key::id)
    }

    /// The ids of the keys, in order.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(Key::id)
    }

    /// Seals with the first key.
    ///
    /// # Errors
    /// When there is none, or it can't be done.
    pub fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<Sealed, Unsealed> {
        let key = self.keys.first().ok_or(Unsealed::NoKey)?;
        if SEALED_MAX / 2 < plain.len() {
            let message = format!("they are longer than {} bytes", SEALED_MAX / 2);
            return Err(Unsealed::Failed(message));
        }
        let failed = || Unsealed::Failed("the cipher refused them".to_owned());
        let cipher = key.cipher().ok_or_else(failed)?;
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce).map_err(Unsealed::Failed)?;
        // long enough from the start: what is overwritten in place leaves no copy of the plain text
        let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(plain);
        let aad = Aad::from(place.bound());
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        if cipher
            .seal_in_place_append_tag(nonce_used, aad, &mut sealed)
            .is_err()
        {
            sealed.zeroize();
            return Err(failed());
        }
        let bytes = [&[FORM][..], &nonce, &sealed].concat();
        Ok(Sealed {
            key: key.id.clone(),
            bytes,
        })
    }

    /// Opens what was sealed at this place.
    ///
    /// # Errors
    /// When its key isn't here, or it isn't what was sealed.
    pub fn open(&self, place: Place<'_>, it: &Sealed) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let key = self.keys.iter().find(|key| key.id == it.key);
        let key = key.ok_or_else(|| Unopened::NoKey(it.key.clone()))?;
        let opened = || {
            let (form, rest) = it.bytes.split_first()?;
            if *form != FORM {
                return None;
            }
            let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut plain = Zeroizing::new(sealed.to_vec());
            let aad = Aad::from(place.bound());
            let length = key
                .cipher()?
                .open_in_place(nonce, aad, &mut plain)
                .ok()?
                .len();
            plain.truncate(length);
            Some(plain)
        };
        opened().ok_or_else(|| Unopened::Spoilt(it.key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key::read(id, &Key::fresh().unwrap()).unwrap()
    }

    const ANN: Place<'static> = Place {
        table: "accounts",
        row: "ann",
        column: "credentials",
    };

    #[test]
    fn what_is_sealed_is_opened_by_its_key_at_its_place_and_nowhere_else() {
        let (a, b) = (key("a"), key("b"));
        let vault = Vault::new(vec![a.clone(), b.clone()]);
        let plain = b"a secret of some length";
        let sealed = vault.seal(ANN, plain).unwrap();
        assert_eq!(sealed.key, "a");
        assert_eq!(&**vault.open(ANN, &sealed).unwrap(), plain);
        assert!(
            !sealed
                .bytes
                .windows(6)
                .any(|it| plain.windows(6).any(|p| p == it))
        );
        // the same again looks different
        assert_ne!(vault.seal(ANN, plain).unwrap().bytes, sealed.bytes);
        let spoilt = Err(Unopened::Spoilt("a".to_owned()));
        for place in [
            Place { row: "bob", ..ANN },
            Place {
                table: "tokens",
                ..ANN
            },
            Place {
                column: "label",
                ..ANN
            },
            // what one part loses another one has more
            Place {
                table: "accountsa",
                row: "nn",
                ..ANN
            },
        ] {
            assert_eq!(vault.open(place, &sealed), spoilt, "{place:?}");
        }
        // any byte of it
        for at in 0..sealed.bytes.len() {
            let mut it = sealed.clone();
            it.bytes[at] ^= 1;
            assert_eq!(vault.open(ANN, &it), spoilt, "{at}");
        }
        for length in 0..sealed.bytes.len() {
            let mut it = sealed.clone();
            it.bytes.truncate(length);
            assert_eq!(vault.open(ANN, &it), spoilt, "{length}");
        }
        // another key under the same id, and none of it
        let other = Vault::new(vec![key("a")]);
        assert_eq!(other.open(ANN, &sealed), spoilt);
        let other = Vault::new(vec![b]);
        assert_eq!(
            other.open(ANN, &sealed),
            Err(Unopened::NoKey("a".to_owned()))
        );
        assert_eq!(Vault::default().seal(ANN, plain), Err(Unsealed::NoKey));
    }

    #[test]
    fn a_key_in_front_seals_and_those_behind_it_still_open() {
        let (old, new) = (key("old"), key("new"));
        let sealed = Vault::new(vec![old.clone()]).seal(ANN, b"it").unwrap();
        let both = Vault::new(vec![new.clone(), old]);
        let plain = both.open(ANN, &sealed).unwrap();
        let again = both.seal(ANN, &plain).unwrap();
        assert_eq!(again.key, "new");
        let rotated = Vault::new(vec![new]);
        assert_eq!(&**rotated.open(ANN, &again).unwrap(), b"it");
        assert!(rotated.open(ANN, &sealed).is_err());
    }

    #[test]
    fn a_key_is_thirty_two_bytes_and_what_is_none_is_not_repeated() {
        let read = |text: &str| Key::read("k", &text.into()).map(|it| it.bytes.to_vec());
        let bytes: Vec<u8> = (0..32).collect();
        let digits: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(read(&digits), Ok(bytes.clone()));
        assert_eq!(read(&digits.to_uppercase()), Ok(bytes.clone()));
        assert_eq!(read(&STANDARD.encode(&bytes)), Ok(bytes.clone()));
        for (bad, says) in [
            (STANDARD.encode(&bytes[..31]), "32 bytes"),
            (format!("{}zz", &digits[..62]), "no hexadecimal"),
            ("hunter2 hunter2".to_owned(), "no base64"),
            ("0".repeat(64), "guess"),
        ] {
            let e = read(&bad).unwrap_err();
            assert!(e.contains(says) && !e.contains(&bad), "{bad}: {e}");
        }
        assert!(check_id("2026-11").is_ok() && check_id("a b").is_err() && check_id("").is_err());
        assert!(!format!("{:?}", key("shown")).contains('['));
    }
}
