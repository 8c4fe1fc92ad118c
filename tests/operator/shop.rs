//! A shop whose day went wrong: a ledger with every fate of a job in it, made through the library;
//! and transcripts of what an operator sees of it.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use presswork::clock::Clock;
use presswork::config::Config;
use presswork::effect::{Effect, EffectClass, EffectState, Evidence, Receipt};
use presswork::intake::{Answer, Rules, accept, admit, quarantined};
use presswork::job::{Job, JobId};
use presswork::ledger::sqlite::Sqlite;
use presswork::ledger::{
    AttemptEnd, Claim, Conclusion, Fence, Guard, Ledger, Run, Settled, Settlement,
};
use presswork::lifecycle::{Event, advance};
use presswork::outcome::{Failure, Outcome};
use presswork::retry::Policy;
use regex::Regex;
use uuid::Uuid;

use crate::kit::daemon::Home;

/// Its `jobs.toml`.
pub const CONFIG: &str = r#"
[api]
listen = "off"

[lanes.mastodon]
concurrency = 4

[accounts.main]
platform = "mastodon"
base_url = "https://social.example"
secret = { env = "MAIN_TOKEN" }
"#;
const TOKEN: &str = "a-token-that-must-not-be-seen-anywhere";

/// The shop: a home for the binary, and the ledger in it. Its clock is three hours slow, so that
/// what happened is told as "3 h ago" however long the test takes.
pub struct Shop {
    pub home: Home,
    pub ledger: Arc<Sqlite>,
    clock: Clock,
    rules: Rules,
    run: Uuid,
}

impl Shop {
    pub async fn open() -> Shop {
        let home = Home::new(CONFIG)
            .env("MAIN_TOKEN", TOKEN)
            .env("USER", "ada")
            .env("VISUAL", "")
            .env("EDITOR", "sh editor.sh");
        let clock = Clock::manual(Clock::System.now() - TimeDelta::minutes(200));
        let file = home.path().join(".presswork/ledger.sqlite");
        let ledger = Sqlite::open(&file, clock.clone()).await.expect("a ledger");
        ledger.migrate().await.expect("a schema");
        let env = |name: &str| (name == "MAIN_TOKEN").then(|| TOKEN.to_owned());
        let config =
            Config::parse(CONFIG, Some(Path::new("jobs.toml")), &env).expect("a configuration");
        let rules = Rules {
            config: Arc::new(config),
            kinds: presswork::kinds::all().into(),
        };
        let run = Run {
            id: Uuid::new_v4(),
            host: "press-1".to_owned(),
            boot: None,
            pid: 1,
            version: "0.1.0".to_owned(),
            began_at: clock.now(),
        };
        // long enough for what the fixture does, over by the time the binary looks
        ledger
            .begin_run(&run, Duration::from_secs(3_600))
            .await
            .expect("a run");
        Shop {
            home,
            ledger: Arc::new(ledger),
            clock,
            rules,
            run: run.id,
        }
    }

    /// Accepts an envelope.
    pub async fn accept(&self, envelope: &str) -> JobId {
        let id = JobId::mint();
        let job = admit(&self.rules, id, envelope.as_bytes()).expect("an envelope that is right");
        accept(&*self.ledger, &[job]).await.expect("an answer");
        id
    }

    /// Sends bytes through intake as the inbox does; they end in quarantine.
    pub async fn quarantine(&self, bytes: &[u8]) -> JobId {
        let id = JobId::mint();
        let refusal = admit(&self.rules, id, bytes).expect_err("an envelope that is wrong");
        let entry = quarantined(
            "inbox",
            id,
            self.clock.now(),
            bytes,
            &Answer::Refused(refusal),
        );
        self.ledger
            .quarantine(&[entry.expect("an entry")])
            .await
            .expect("it is kept");
        id
    }

    pub async fn claim(&self, id: JobId) -> Job {
        let job = self.job(id).await;
        let claim = Claim {
            run: self.run,
            generation: None,
            lane: job.lane,
            kinds: Arc::new([job.kind]),
            concurrency: None,
            shut: Arc::default(),
            fair: Arc::default(),
        };
        let claimed = self.ledger.claim(&claim, &[id]).await.expect("a claim");
        claimed.into_iter().next().expect("a job that was due")
    }

    /// Ends an attempt two seconds after it began.
    pub async fn end(&self, job: &Job, outcome: Outcome) {
        let began_at = self.clock.now();
        self.clock.advance(TimeDelta::seconds(2));
        let (now, word) = (self.clock.now(), outcome.word());
        let result = match &outcome {
            Outcome::Completed(it) => Some(it.to_string()),
            _ => None,
        };
        let transition =
            advance(&job.facts(Policy::default()), Event::Ended(outcome), now).expect("an end");
        let failure = transition.failure.clone();
        let settlement = Settlement {
            id: job.id,
            guard: Guard::Token(job.token.expect("a lease")),
            attempt: Some(AttemptEnd {
                epoch: job.epoch,
                number: job.attempts + 1,
                run: job.run,
                host: "press-1".to_owned(),
                began_at,
                ended_at: now,
                outcome: word.to_owned(),
                failure: failure.clone(),
            }),
            result,
            fingerprint: failure.map(|it| it.fingerprint(&job.kind)),
            transition,
            edit: None,
            audit: None,
        };
        let settled = self.ledger.settle(&[settlement]).await.expect("an answer");
        assert_eq!(settled, [Settled::Done]);
    }

    /// Accepts an envelope and lets its first attempt end so.
    pub async fn ended(&self, envelope: &str, outcome: impl Into<Outcome>) -> JobId {
        let id = self.accept(envelope).await;
        let job = self.claim(id).await;
        self.end(&job, outcome.into()).await;
        id
    }

    /// A job whose status was sent once, with this for an answer; its attempt then ended so.
    pub async fn sent(&self, envelope: &str, answer: EffectState, outcome: Outcome) -> JobId {
        let id = self.accept(envelope).await;
        let job = self.claim(id).await;
        let (token, run) = (job.token.expect("a lease"), self.run);
        let fence = Fence {
            job: id,
            revision: 0,
            token,
            run,
        };
        let effect = intended(&job);
        self.ledger
            .intend(&fence, &effect)
            .await
            .expect("an effect")
            .expect("the lease is held");
        let budget = Duration::from_secs(30);
        let permit = self
            .ledger
            .permit(&fence, effect.id, (EffectState::Intended, 0), budget, None)
            .await;
        assert!(permit.expect("an answer"), "the permit is given");
        let now = self.clock.now();
        let (receipt, seen) = match answer {
            EffectState::Confirmed => (Some(receipt(now)), "send 1: 200, status 7"),
            _ => (
                None,
                "send 1: the connection was reset after the request was sent",
            ),
        };
        let evidence = Evidence::new(now, seen.to_owned());
        let conclusion = Conclusion {
            to: answer,
            receipt,
            evidence,
            look_in: None,
        };
        assert!(
            self.ledger
                .conclude(effect.id, 1, &conclusion)
                .await
                .expect("an answer")
        );
        self.end(&job, outcome).await;
        id
    }

    /// Runs a command: what the operator sees, and the exit code.
    pub async fn run(&self, line: &str) -> Seen {
        let args: Vec<&str> = line.split_whitespace().collect();
        let output = self.home.cli(&args).await;
        let seen = Seen::of(output);
        assert!(!seen.all().contains(TOKEN), "a secret was shown");
        seen
    }

    /// Runs a command and parses what it says as JSON; it must exit with `exit`.
    pub async fn json(&self, line: &str, exit: i32) -> serde_json::Value {
        let seen = self.run(&format!("{line} --json")).await;
        assert_eq!(seen.exit, exit, "{line}: {}", seen.all());
        serde_json::from_str(&seen.out).unwrap_or_else(|e| panic!("{line}: {e}: {}", seen.all()))
    }

    pub async fn job(&self, id: JobId) -> Job {
        self.ledger
            .job(id)
            .await
            .expect("an answer")
            .expect("a job")
    }

    /// From now on the editor does this to its file (`$1`): a shell script.
    pub fn editor(&self, script: &str) {
        let path = self.home.path().join("editor.sh");
        std::fs::write(path, script).expect("a script can be written");
    }
}

fn intended(job: &Job) -> Effect {
    let of = (job.id, 0);
    Effect {
        intent: "5f6c".to_owned(),
        keep: serde_json::json!({"key": "k-1"}),
        ..Effect::new(
            of,
            ("publish", 0),
            "main",
            "mastodon.status",
            EffectClass::A,
        )
    }
}

fn receipt(at: presswork::clock::Time) -> Receipt {
    Receipt {
        remote_id: Some("7".to_owned()),
        url: Some("https://social.example/@ada/7".to_owned()),
        at,
        detail: serde_json::Value::Null,
    }
}

/// A failure of a platform that may work again.
pub fn busy() -> Failure {
    Failure::transient("http_503", "social.example answered 503 after 12 ms")
}

/// What an operator saw.
pub struct Seen {
    pub out: String,
    pub err: String,
    pub exit: i32,
}

impl Seen {
    fn of(output: Output) -> Seen {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let exit = output.status.code().expect("an exit code");
        Seen {
            out: text(output.stdout),
            err: text(output.stderr),
            exit,
        }
    }

    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// A transcript, compared with the one that was found good.
pub struct Transcript {
    name: &'static str,
    ids: Vec<(String, String)>,
    text: String,
}

impl Transcript {
    /// `ids` are told by their names.
    pub fn new(name: &'static str, ids: &[(JobId, &str)]) -> Transcript {
        let ids = ids
            .iter()
            .map(|(id, name)| (id.to_string(), format!("<{name}>")));
        Transcript {
            name,
            ids: ids.collect(),
            text: String::new(),
        }
    }

    /// Runs a command and writes down what was seen.
    pub async fn run(&mut self, shop: &Shop, line: &str) -> Seen {
        let seen = shop.run(line).await;
        let said = format!(
            "$ presswork {line}\n{}{}[exit {}]\n\n",
            seen.out, seen.err, seen.exit
        );
        let said = self.masked(&said);
        self.text.push_str(&said);
        seen
    }

    /// Ids by name, times and widths away.
    fn masked(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (id, name) in &self.ids {
            text = text.replace(id, name);
        }
        let masks = [
            (
                r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "<uuid>",
            ),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
            (r"\bin \d+ d\b", "in <days>"),
            (r"(\S) {2,}", "$1  "),
        ];
        for (mask, with) in masks {
            let mask = Regex::new(mask).expect("a pattern");
            text = mask.replace_all(&text, with).into_owned();
        }
        text
    }

    /// # Panics
    /// Where it isn't the one in `tests/golden/operator` (UPDATE_GOLDEN=1 writes it anew).
    pub fn check(self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/operator");
        let path = path.join(format!("{}.txt", self.name));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &self.text).expect("a transcript can be written");
            return;
        }
        let good = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            good == self.text,
            "{}: what is seen has changed; UPDATE_GOLDEN=1 writes it anew\n{}",
            path.display(),
            self.text
        );
    }
}
