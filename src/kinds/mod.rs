//! The kinds: one file each, one list.

mod media;

mod generate_text;
mod post_bluesky;
mod post_mastodon;
mod test_job;

use crate::handler::Kind;

/// Every kind there is, by name.
pub fn all() -> Vec<Kind> {
    vec![
        Kind::of::<generate_text::GenerateText>(),
        Kind::of::<post_bluesky::PostBluesky>(),
        Kind::of::<post_mastodon::PostMastodon>(),
        Kind::of::<test_job::TestJob>(),
    ]
}

/// The kind of a name.
pub fn find(name: &str) -> Option<Kind> {
    all().into_iter().find(|it| it.name() == name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::job::Envelope;

    /// A configuration of defaults.
    pub(crate) fn config() -> Config {
        Config::default_embedded(std::path::Path::new("/nowhere"))
    }

    #[test]
    fn names_are_sorted_and_unlike() {
        let names: Vec<&str> = all().iter().map(Kind::name).collect();
        assert!(names.windows(2).all(|it| it[0] < it[1]), "{names:?}");
        assert!(find("post.mastodon").is_some() && find("post").is_none());
    }

    #[test]
    fn every_lane_is_there_without_a_file() {
        for kind in all() {
            let lane = kind.settings(&config()).lane;
            assert!(
                config().lanes.contains_key(&lane),
                "{}: {lane}",
                kind.name()
            );
        }
    }

    #[test]
    fn every_example_fits_its_payload() {
        for kind in all() {
            let envelope = Envelope {
                kind: kind.name().to_owned(),
                payload: kind.defaults.example.to_owned(),
                ..Envelope::default()
            };
            let violations = kind.check(&envelope, &config());
            assert_eq!(violations, [], "{}", kind.name());
        }
    }
}
