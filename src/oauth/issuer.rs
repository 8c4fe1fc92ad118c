//! The issuers: where each lets people grant access and gives tokens, and what is peculiar about it.
//!
//! A comment names what says so: the platforms' official descriptions (\[S\]), their documentation (\[D\]), or
//! what is widely known of them (\[K\]).

use crate::outcome::words;

words! {
    /// Who grants access.
    Issuer {
        /// X.
        X = "x",
        /// Google: YouTube, Sheets, Drive.
        Google = "google",
        /// Pinterest.
        Pinterest = "pinterest",
        /// TikTok.
        TikTok = "tiktok",
        /// LinkedIn.
        LinkedIn = "linkedin",
        /// Facebook, and Instagram by a login with Facebook.
        Facebook = "facebook",
        /// Instagram by a login of its own.
        Instagram = "instagram",
        /// Threads.
        Threads = "threads",
    }
}

/// How it is proven that who redeems a code is who asked for it (RFC 7636).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pkce {
    /// Not at all: the issuer doesn't know of it.
    No,
    /// By SHA-256 in base64url.
    S256,
    /// By SHA-256 in hexadecimal, and only where the redirect goes to this machine.
    HexAtHome,
}

/// How the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// `Authorization: Basic`; a client without a secret names itself in the body.
    Basic,
    /// In the body.
    Body,
}

/// How a grant is kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// By a refresh token that is good for one use, or may be replaced by any: the new one must be kept
    /// before it is used.
    Rotating,
    /// By a refresh token that stays.
    Lasting,
    /// The token itself is prolonged, by a GET with this grant type.
    Itself(&'static str),
    /// Only by a person who logs in again.
    Person,
}

/// What a short-lived token is changed for a long-lived one by, right after the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Where.
    pub url: &'static str,
    /// The grant type.
    pub grant: &'static str,
    /// The parameter that holds the short-lived token.
    pub token: &'static str,
    /// Whether the client's id is asked for beside its secret.
    pub names_client: bool,
}

/// What is peculiar about an issuer.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// For people.
    pub name: &'static str,
    /// Where a person grants access.
    pub authorize: &'static str,
    /// Where codes and refresh tokens are redeemed.
    pub token: &'static str,
    /// Where the token itself is prolonged, with [`Renewal::Itself`].
    pub refresh: Option<&'static str>,
    /// What follows the login.
    pub exchange: Option<Exchange>,
    /// See [`Pkce`].
    pub pkce: Pkce,
    /// See [`Proof`].
    pub proof: Proof,
    /// What the client's id is called.
    pub client_id: &'static str,
    /// What stands between scopes.
    pub separator: &'static str,
    /// See [`Renewal`].
    pub renewal: Renewal,
    /// What the authorize address gets beside the usual.
    pub authorize_with: &'static [(&'static str, &'static str)],
    /// What the token address gets beside the usual.
    pub token_with: &'static [(&'static str, &'static str)],
    /// What an account needs to post, where no scopes are said.
    pub scopes: &'static [&'static str],
    /// The platform of its accounts, where there is one of them.
    pub platform: Option<&'static str>,
    /// Seconds that a token lives, where the answer doesn't say. `None`: it isn't known to end.
    pub lifetime_s: Option<u64>,
}

impl Issuer {
    /// What is peculiar about it.
    pub const fn facts(self) -> Facts {
        match self {
            // [S] the description names the scopes and the token address; [D] people are sent to x.com;
            // Basic for a client with a secret, else client_id in the body; 2 h; [K] single use
            Self::X => Facts {
                name: "X",
                authorize: "https://x.com/i/oauth2/authorize",
                token: "https://api.x.com/2/oauth2/token",
                refresh: None,
                exchange: None,
                pkce: Pkce::S256,
                proof: Proof::Basic,
                client_id: "client_id",
                separator: " ",
                renewal: Renewal::Rotating,
                authorize_with: &[],
                token_with: &[],
                scopes: &[
                    "tweet.read",
                    "tweet.write",
                    "users.read",
                    "media.write",
                    "offline.access",
                ],
                platform: Some("x"),
                lifetime_s: Some(7_200),
            },
            // [D] a refresh token comes only with access_type=offline, and at each login only with
            // prompt=consent; it doesn't rotate
            Self::Google => Facts {
                name: "Google",
                authorize: "https://accounts.google.com/o/oauth2/v2/auth",
                token: "https://oauth2.googleapis.com/token",
                refresh: None,
                exchange: None,
                pkce: Pkce::S256,
                proof: Proof::Body,
                client_id: "client_id",
                separator: " ",
                renewal: Renewal::Lasting,
                authorize_with: &[("access_type", "offline"), ("prompt", "consent")],
                token_with: &[],
                scopes: &[
                    "https://www.googleapis.com/auth/youtube.upload",
                    "https://www.googleapis.com/auth/youtube.readonly",
                ],
                platform: None,
                lifetime_s: Some(3_600),
            },
            // [S] Basic; continuous refresh (60 days, renewed with each use), which older apps have to
            // ask for; [D] scopes between commas
            Self::Pinterest => Facts {
                name: "Pinterest",
                authorize: "https://www.pinterest.com/oauth/",
                token: "https://api.pinterest.com/v5/oauth/token",
                refresh: None,
                exchange: None,
                pkce: Pkce::No,
                proof: Proof::Basic,
                client_id: "client_id",
                separator: ",",
                renewal: Renewal::Rotating,
                authorize_with: &[],
                token_with: &[("continuous_refresh", "true")],
                scopes: &["boards:read", "boards:write", "pins:read", "pins:write"],
                platform: None,
                lifetime_s: Some(2_592_000),
            },
            // [K] client_key; 24 h, and the refresh token may be replaced; [D] PKCE is for redirects to
            // this machine, with the digest in hexadecimal
            Self::TikTok => Facts {
                name: "TikTok",
                authorize: "https://www.tiktok.com/v2/auth/authorize/",
                token: "https://open.tiktokapis.com/v2/oauth/token/",
                refresh: None,
                exchange: None,
                pkce: Pkce::HexAtHome,
                proof: Proof::Body,
                client_id: "client_key",
                separator: ",",
                renewal: Renewal::Rotating,
                authorize_with: &[],
                token_with: &[],
                scopes: &["user.info.basic", "video.publish"],
                platform: None,
                lifetime_s: Some(86_400),
            },
            // [K] 60 days; refresh tokens (365 days, not prolonged by use) for approved apps only
            Self::LinkedIn => Facts {
                name: "LinkedIn",
                authorize: "https://www.linkedin.com/oauth/v2/authorization",
                token: "https://www.linkedin.com/oauth/v2/accessToken",
                refresh: None,
                exchange: None,
                pkce: Pkce::No,
                proof: Proof::Body,
                client_id: "client_id",
                separator: " ",
                renewal: Renewal::Lasting,
                authorize_with: &[],
                token_with: &[],
                scopes: &["w_member_social"],
                platform: None,
                lifetime_s: Some(5_184_000),
            },
            // [D] no refresh token: the short-lived token is changed for one of 60 days, then a person is
            // asked again
            Self::Facebook => Facts {
                name: "Facebook",
                authorize: "https://www.facebook.com/v25.0/dialog/oauth",
                token: "https://graph.facebook.com/v25.0/oauth/access_token",
                refresh: None,
                exchange: Some(Exchange {
                    url: "https://graph.facebook.com/v25.0/oauth/access_token",
                    grant: "fb_exchange_token",
                    token: "fb_exchange_token",
                    names_client: true,
                }),
                pkce: Pkce::No,
                proof: Proof::Body,
                client_id: "client_id",
                separator: ",",
                renewal: Renewal::Person,
                authorize_with: &[],
                token_with: &[],
                scopes: &[
                    "instagram_basic",
                    "instagram_content_publish",
                    "pages_read_engagement",
                ],
                platform: Some("instagram"),
                lifetime_s: Some(5_184_000),
            },
            // [K] an hour, changed for 60 days, which the token itself prolongs
            Self::Instagram => Facts {
                name: "Instagram",
                authorize: "https://www.instagram.com/oauth/authorize",
                token: "https://api.instagram.com/oauth/access_token",
                refresh: Some("https://graph.instagram.com/refresh_access_token"),
                exchange: Some(Exchange {
                    url: "https://graph.instagram.com/access_token",
                    grant: "ig_exchange_token",
                    token: "access_token",
                    names_client: false,
                }),
                pkce: Pkce::No,
                proof: Proof::Body,
                client_id: "client_id",
                separator: ",",
                renewal: Renewal::Itself("ig_refresh_token"),
                authorize_with: &[],
                token_with: &[],
                scopes: &[
                    "instagram_business_basic",
                    "instagram_business_content_publish",
                ],
                platform: Some("instagram"),
                lifetime_s: Some(5_184_000),
            },
            // [S] as Instagram's own login
            Self::Threads => Facts {
                name: "Threads",
                authorize: "https://threads.net/oauth/authorize",
                token: "https://graph.threads.net/oauth/access_token",
                refresh: Some("https://graph.threads.net/refresh_access_token"),
                exchange: Some(Exchange {
                    url: "https://graph.threads.net/access_token",
                    grant: "th_exchange_token",
                    token: "access_token",
                    names_client: false,
                }),
                pkce: Pkce::No,
                proof: Proof::Body,
                client_id: "client_id",
                separator: ",",
                renewal: Renewal::Itself("th_refresh_token"),
                authorize_with: &[],
                token_with: &[],
                scopes: &["threads_basic", "threads_content_publish"],
                platform: None,
                lifetime_s: Some(5_184_000),
            },
        }
    }

    /// The words, for tables of keys.
    pub const WORDS: [&'static str; 8] = [
        "x",
        "google",
        "pinterest",
        "tiktok",
        "linkedin",
        "facebook",
        "instagram",
        "threads",
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn each_issuer_is_reached_by_https_and_has_its_word() {
        for (issuer, word) in Issuer::ALL.iter().zip(Issuer::WORDS) {
            assert_eq!(issuer.as_str(), word);
            let facts = issuer.facts();
            let more = facts.refresh.into_iter();
            let more = more.chain(facts.exchange.map(|it| it.url));
            for url in more.chain([facts.authorize, facts.token]) {
                let url = Url::parse(url).unwrap();
                assert_eq!((url.scheme(), url.query()), ("https", None), "{url}");
            }
            let itself = matches!(facts.renewal, Renewal::Itself(_));
            assert_eq!(itself, facts.refresh.is_some(), "{issuer}");
        }
        assert_eq!(Issuer::ALL.len(), Issuer::WORDS.len());
    }
}
