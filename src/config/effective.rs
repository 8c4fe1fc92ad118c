//! What holds, key by key, and who said so: for `presswork check`. Secrets are never shown.

use crate::budget::{Budget, Form, money};
use crate::json::did_you_mean;
use crate::oauth::Client;
use crate::telemetry::redact::HIDDEN;

use url::Url;

use super::error::{ConfigError, Place};
use super::read::shown_key;
use super::secret::shown;
use super::types::{Account, Command, Config, Home, Variable};
use super::words::POSTS;

impl Config {
    /// Every key that holds: its path, its value (secrets as `***`), and where it was said
    /// (`jobs.toml:3:11`, a variable's name, or `default`).
    pub fn effective(&self) -> Vec<(String, String, String)> {
        let mut all = self.fixed();
        for (name, lane) in &self.lanes {
            let path = format!("lanes.{}", shown_key(name));
            let concurrency = lane
                .concurrency
                .map_or("no limit".to_owned(), |it| it.to_string());
            all.push((format!("{path}.concurrency"), concurrency));
            all.push((format!("{path}.room"), lane.room.to_string()));
            let waits = lane.waits_at_most.as_secs().to_string();
            all.push((format!("{path}.waits_at_most_s"), waits));
        }
        for (name, weight) in &self.tenant_weights {
            let path = format!("tenants.{}.weight", shown_key(name));
            all.push((path, weight.to_string()));
        }
        for (name, kind) in &self.kinds {
            let path = format!("kinds.{}", shown_key(name));
            let mut put = |key: &str, value: Option<String>| {
                all.extend(value.map(|it| (format!("{path}.{key}"), it)));
            };
            put("lane", kind.lane.clone());
            put("attempts", kind.retry.map(|it| it.attempts_max.to_string()));
            put("base_ms", kind.retry.map(|it| it.base_ms.to_string()));
            put("cap_ms", kind.retry.map(|it| it.cap_ms.to_string()));
            put("timeout_s", kind.timeout_s.map(|it| it.to_string()));
            put("age_max_s", kind.age_max_s.map(|it| it.to_string()));
            put("late", kind.late.map(|it| it.to_string()));
            let late_after = kind.late_after_s.map(|it| it.to_string());
            put("late_after_s", late_after);
            put("resend_times", kind.resend_times.map(|it| it.to_string()));
            let after = kind.look_after.map(|it| it.as_millis().to_string());
            put("look_after_ms", after);
            let most = kind.look_for.map(|it| it.as_secs().to_string());
            put("look_for_s", most);
            put("resend", kind.resend.map(|it| it.to_string()));
            put("cache_age_s", kind.cache_age_s.map(|it| it.to_string()));
            let most = kind.adopt_for.map(|it| it.as_secs().to_string());
            put("adopt_for_s", most);
            let all = kind.fallbacks.iter().map(|it| match &it.model {
                Some(model) => format!("{} ({model})", it.account),
                None => it.account.clone(),
            });
            let all: Vec<String> = all.collect();
            put(
                "fallbacks",
                Some(all.join(", ")).filter(|it| !it.is_empty()),
            );
        }
        let of_file = self.accounts.iter().filter(|it| it.1.home == Home::File);
        for (name, account) in of_file {
            let path = format!("accounts.{}", shown_key(name));
            let said = account_of(account).into_iter();
            all.extend(said.map(|(key, it)| (format!("{path}.{key}"), it)));
        }
        for (name, it) in &self.oauth {
            let path = format!("oauth.{}", shown_key(name));
            let said = client_of(it).into_iter();
            all.extend(said.map(|(key, it)| (format!("{path}.{key}"), it)));
        }
        for (name, it) in &self.budgets {
            let path = format!("budgets.{}", shown_key(name));
            let said = budget_of(it).into_iter();
            all.extend(said.map(|(key, it)| (format!("{path}.{key}"), it)));
        }
        for (name, it) in &self.presets {
            let path = format!("presets.{}", shown_key(name));
            let strength = it.strength_percent.map(|it| it.to_string());
            let said = [
                ("prompt_prefix", it.prompt_prefix.clone()),
                ("prompt_suffix", it.prompt_suffix.clone()),
                ("negative_prompt", it.negative_prompt.clone()),
                ("model", it.model.clone()),
                ("size", it.size.clone()),
                ("strength_percent", strength),
            ];
            let said = said.into_iter().filter_map(|(key, it)| Some((key, it?)));
            all.extend(said.map(|(key, it)| (format!("{path}.{key}"), it)));
        }
        for (name, command) in &self.commands {
            let path = format!("commands.{}", shown_key(name));
            let said = command_of(command).into_iter();
            all.extend(said.map(|(key, it)| (format!("{path}.{key}"), it)));
        }
        for (name, model) in &self.models {
            let path = format!("models.{}", shown_key(name));
            let (input, output) = (model.input_micros_per_mtok, model.output_micros_per_mtok);
            all.push((format!("{path}.input_micros_per_mtok"), input.to_string()));
            all.push((format!("{path}.output_micros_per_mtok"), output.to_string()));
            let image = model.image_micros.map(|it| it.to_string());
            all.extend(image.map(|it| (format!("{path}.image_micros"), it)));
            let tokens = model.output_tokens_max.to_string();
            all.push((format!("{path}.output_tokens_max"), tokens));
            all.push((format!("{path}.currency"), model.currency.to_string()));
        }
        all.into_iter()
            .map(|(key, value)| {
                let said = self.said_at(&key);
                (key, value, said)
            })
            .collect()
    }

    fn fixed(&self) -> Vec<(String, String)> {
        let days = |it: std::time::Duration| (it.as_secs() / 86_400).to_string();
        let listen =
            |it: Option<std::net::SocketAddr>| it.map_or("off".to_owned(), |it| it.to_string());
        let token = self.api.token.as_ref().map_or("none", |_| HIDDEN);
        let mut all = vec![
            ("daemon.state_dir", self.state_dir.display().to_string()),
            ("daemon.lease_s", self.lease.as_secs().to_string()),
            ("daemon.drain_s", self.drain.as_secs().to_string()),
            (
                "daemon.memory_mb",
                self.memory_mb
                    .map_or("the service's own limit, if any".to_owned(), |it| {
                        it.to_string()
                    }),
            ),
            ("daemon.log", self.log.clone()),
            ("daemon.log_format", self.log_format.to_string()),
            ("ledger.url", shown(&self.ledger)),
            ("queue.url", shown(&self.queue)),
            ("queue.window", self.window.to_string()),
            ("api.listen", listen(self.api.listen)),
            ("api.token", token.to_owned()),
            (
                "api.public_url",
                self.api
                    .public_url
                    .as_ref()
                    .map_or("none".to_owned(), |it| it.to_string()),
            ),
            ("resp.listen", listen(self.resp)),
            ("inbox.require_key", self.require_key.to_string()),
            ("inbox.backlog_max", self.backlog_max.to_string()),
            ("inbox.tenants", listed(&self.tenants)),
            ("keep.finished_days", days(self.keep_finished)),
            ("keep.keys_days", days(self.keep_keys)),
            (
                "vault.keys",
                listed(&self.vault.ids().map(str::to_owned).collect::<Vec<_>>()),
            ),
        ];
        let media = &self.media;
        let seconds = |it: std::time::Duration| it.as_secs().to_string();
        let allow: Vec<String> = media.fetch_allow.iter().map(ToString::to_string).collect();
        all.extend([
            ("media.folder", media.folder.display().to_string()),
            (
                "media.account",
                media.account.clone().unwrap_or("none".to_owned()),
            ),
            ("media.prefix", media.prefix.clone()),
            ("media.bytes_max", media.bytes_max.to_string()),
            ("media.pixels_max", media.pixels_max.to_string()),
            ("media.ratio_max", media.ratio_max.to_string()),
            ("media.grace_s", seconds(media.grace)),
            ("media.fetch_age_s", seconds(media.fetch_age)),
            ("media.fetch_timeout_s", seconds(media.fetch_timeout)),
            ("media.fetch_http", media.fetch_http.to_string()),
            ("media.fetch_allow", listed(&allow)),
        ]);
        let breaker = &self.breaker;
        all.extend([
            ("breaker.failures", breaker.failures.to_string()),
            ("breaker.window_s", seconds(breaker.window)),
            ("breaker.cool_down_s", seconds(breaker.cool_down)),
        ]);
        all.extend([
            ("late.grace_s", seconds(self.late.grace)),
            ("late.pace_s", seconds(self.late.pace)),
        ]);
        if let Some(retry) = self.retry {
            all.push(("retry.attempts", retry.attempts_max.to_string()));
            all.push(("retry.base_ms", retry.base_ms.to_string()));
            all.push(("retry.cap_ms", retry.cap_ms.to_string()));
        }
        all.into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    fn said_at(&self, key: &str) -> String {
        let file = self
            .origin
            .as_ref()
            .map_or("configuration".to_owned(), |it| it.display().to_string());
        match self.places.get(key) {
            Some(Place::File { line, column }) => format!("{file}:{line}:{column}"),
            Some(Place::Variable(name)) => name.clone(),
            Some(Place::Nowhere) | None => "default".to_owned(),
        }
    }

    /// The kinds of `[kinds]` that the program doesn't know.
    pub fn check_kinds(&self, known: &[&str]) -> Vec<ConfigError> {
        let unknown = self.kinds.keys().filter(|it| !known.contains(&it.as_str()));
        unknown
            .map(|name| {
                let key = format!("kinds.{}", shown_key(name));
                let message = match did_you_mean(name, known.iter().copied()) {
                    near if near.is_empty() => {
                        format!("unknown kind; there are {}", known.join(", "))
                    }
                    near => format!("unknown kind{near}"),
                };
                ConfigError {
                    place: self.places.get(&key).cloned().unwrap_or(Place::Nowhere),
                    key,
                    said: None,
                    message,
                }
            })
            .collect()
    }
}

/// Several, as a file says them.
fn listed(all: &[String]) -> String {
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}

/// What holds of an app that was registered with a platform.
fn client_of(it: &Client) -> Vec<(&'static str, String)> {
    let url = |it: &Option<Url>| it.as_ref().map(ToString::to_string);
    let said = [
        ("issuer", Some(it.issuer.to_string())),
        ("client_id", Some(it.id.clone())),
        (
            "client_secret",
            it.secret.as_ref().map(|_| HIDDEN.to_owned()),
        ),
        ("scopes", Some(listed(&it.scopes))),
        ("authorize_url", Some(it.authorize.to_string())),
        ("token_url", Some(it.token.to_string())),
        ("refresh_url", url(&it.refresh)),
        ("exchange_url", url(&it.exchange)),
        ("redirect_url", url(&it.redirect)),
    ];
    let said = said.into_iter();
    said.filter_map(|(key, it)| Some((key, it?))).collect()
}

fn account_of(it: &Account) -> Vec<(&'static str, String)> {
    let mut all = vec![("platform", it.platform.clone())];
    match it.base_url.to_file_path() {
        Ok(folder) if it.base_url.scheme() == "file" => {
            all.push(("folder", folder.display().to_string()));
        }
        _ => all.push(("base_url", it.base_url.to_string())),
    }
    all.extend(it.identifier.clone().map(|it| ("identifier", it)));
    if let Some(bucket) = &it.bucket {
        all.push(("bucket", bucket.name.clone()));
        all.push(("region", bucket.region.clone()));
        all.push(("path_style", bucket.path_style.to_string()));
        all.push(("access_key_id", HIDDEN.to_owned()));
    }
    if it.base_url.scheme() != "file" {
        all.push(("secret", HIDDEN.to_owned()));
    }
    all.extend(
        it.public_url
            .as_ref()
            .map(|it| ("public_url", it.to_string())),
    );
    if POSTS.contains(&it.platform.as_str()) {
        all.push(("same_content", it.guard.reaction.to_string()));
        let within_s = it.guard.within.as_secs().to_string();
        all.push(("same_content_within_s", within_s));
    }
    let secret = it.webhook_secret.as_ref();
    all.extend(secret.map(|_| ("webhook_secret", HIDDEN.to_owned())));
    all.extend(it.app.clone().map(|it| ("app", it)));
    let pace = it.pace.map(|it| it.as_secs().to_string());
    all.extend(pace.map(|it| ("pace_s", it)));
    all.extend(it.tenant.clone().map(|it| ("tenant", it)));
    if it.weight != 1 {
        all.push(("weight", it.weight.to_string()));
    }
    if it.platform == "http" {
        let previous = it.previous_secret.as_ref();
        all.extend(previous.map(|_| ("previous_secret", HIDDEN.to_owned())));
        all.push(("timeout_s", it.timeout.as_secs().to_string()));
    }
    all
}

fn budget_of(it: &Budget) -> Vec<(&'static str, String)> {
    let most = match it.form {
        Form::Spend { most, .. } => money(most),
        _ => it.form.most().to_string(),
    };
    let mut all = vec![("form", it.form.word().to_owned()), ("most", most)];
    match &it.form {
        Form::Concurrency { .. } => {}
        Form::Rolling { window, .. } => all.push(("window_s", window.num_seconds().to_string())),
        Form::Bucket {
            most,
            window,
            burst,
        } => {
            all[1].1 = most.to_string();
            all.push(("window_s", window.num_seconds().to_string()));
            all.push(("burst", burst.to_string()));
        }
        Form::Spend {
            currency,
            every,
            zone,
            ..
        } => {
            all.push(("currency", currency.to_string()));
            all.push(("every", every.to_string()));
            all.push(("zone", zone.to_string()));
        }
        Form::Calendar { every, zone, .. } => {
            all.push(("every", every.to_string()));
            all.push(("zone", zone.to_string()));
        }
    }
    all.push(("per", it.per.to_string()));
    all.push(("amount", it.amount.to_string()));
    if it.form.keeps_places() {
        all.push(("reserve", it.reserve.to_string()));
    }
    let mut put = |key: &'static str, value: &Option<String>| {
        all.extend(value.clone().map(|it| (key, it)));
    };
    put("platform", &it.platform);
    put("app", &it.app);
    put("account", &it.account);
    put("tenant", &it.tenant);
    put("kind", &it.kind);
    put("op", &it.op);
    all
}

fn command_of(it: &Command) -> Vec<(&'static str, String)> {
    let mut all = vec![("program", it.program.display().to_string())];
    if !it.args.is_empty() {
        all.push(("args", format!("{:?}", it.args)));
    }
    let shown = |(name, value): (&String, &Variable)| match value {
        Variable::Plain(text) => format!("{name} = {text:?}"),
        Variable::Secret(_) => format!("{name} = {HIDDEN}"),
    };
    let env: Vec<String> = it.env.iter().map(shown).collect();
    if !env.is_empty() {
        all.push(("env", env.join(", ")));
    }
    all.extend(it.lane.clone().map(|it| ("lane", it)));
    all.push(("repeatable", it.repeatable.to_string()));
    all.push(("timeout_s", it.timeout.as_secs().to_string()));
    all.extend(it.memory_mb.map(|it| ("memory_mb", it.to_string())));
    all.extend(it.cpu_s.map(|it| ("cpu_s", it.to_string())));
    all.push(("open_files", it.open_files.to_string()));
    all.push(("file_mb", it.file_mb.to_string()));
    all.push(("output_bytes_max", it.output_bytes_max.to_string()));
    all
}
