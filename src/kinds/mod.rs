//! The kinds: one file each, one list.

mod media;
mod paid;
mod post;

mod command_run;
mod generate_text;
mod http_call;
mod illustrate_image;
mod post_bluesky;
mod post_instagram;
mod post_mastodon;
mod post_x;
mod test_job;
mod upload_object;

use crate::handler::Kind;

/// Every kind there is, by name.
pub fn all() -> Vec<Kind> {
    vec![
        Kind::of::<command_run::CommandRun>(),
        Kind::of::<generate_text::GenerateText>(),
        Kind::of::<http_call::HttpCall>(),
        Kind::of::<illustrate_image::IllustrateImage>(),
        Kind::of::<post_bluesky::PostBluesky>(),
        Kind::of::<post_instagram::PostInstagram>(),
        Kind::of::<post_mastodon::PostMastodon>(),
        Kind::of::<post_x::PostX>(),
        Kind::of::<test_job::TestJob>(),
        Kind::of::<upload_object::UploadObject>(),
    ]
}

/// The kind of a name.
pub fn find(name: &str) -> Option<Kind> {
    all().into_iter().find(|it| it.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::job::Envelope;

    #[test]
    fn names_are_sorted_and_unlike() {
        let names: Vec<&str> = all().iter().map(Kind::name).collect();
        assert!(names.windows(2).all(|it| it[0] < it[1]), "{names:?}");
        assert!(find("post.mastodon").is_some() && find("post").is_none());
    }

    #[test]
    fn every_example_fits_its_payload_and_its_lane_is_there() {
        let resize = "[commands.resize]\nprogram = \"/bin/true\"\n";
        let config = Config::parse(resize, None, &|_| None).unwrap();
        for kind in all() {
            let envelope = Envelope {
                kind: kind.name().to_owned(),
                payload: kind.defaults.example.to_owned(),
                ..Envelope::default()
            };
            let violations = kind.check(&envelope, &config);
            assert_eq!(violations, [], "{}", kind.name());
            assert!(
                config.lanes.contains_key(kind.defaults.lane),
                "{}",
                kind.name()
            );
        }
    }
}
