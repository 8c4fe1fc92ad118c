//! Words that keys of `jobs.toml` take.

/// The platforms that accounts can be of.
pub const PLATFORMS: [&str; 9] = [
    "openai",
    "mastodon",
    "bluesky",
    "x",
    "instagram",
    "s3",
    "gcs",
    "folder",
    "http",
];

/// The platforms on which one posts.
pub const POSTS: [&str; 4] = ["mastodon", "bluesky", "x", "instagram"];

/// The kinds that can fall back to other accounts, each with the platform of these.
pub const FALL_BACK: [(&str, &str); 3] = [
    ("generate.text", "openai"),
    ("http.call", "http"),
    ("illustrate.image", "openai"),
];

/// What can be done about a post that says what its account has just said.
pub const REACTIONS: [&str; 3] = ["refuse", "warn", "allow"];

/// What can follow when a lost answer was looked for in vain.
pub const RESENDS: [&str; 3] = ["ask", "duplicate-filter", "always"];
