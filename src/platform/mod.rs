//! What the world looks like from here: one HTTP client, one table of what an answer means, and a
//! file a platform. An adapter knows only its service and the client.

pub mod http;
pub mod verdict;
pub mod address;
pub mod fetch;
pub mod text;
pub mod facets;

pub mod openai;
pub mod openai_images;
pub mod mastodon;
pub mod bluesky;

pub use verdict::CallError;
