//! What a proof does, in order: the jobs, and what is broken between them. Pure, by a seed: the same
//! seed and wishes give the same jobs and the same blows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::evidence::{Door, KEY_DIGITS, Sort};

/// Jobs of class B, and as many of class C, that are brought just before a blow.
pub const VOLLEY: usize = 5;
/// What the sandbox does to some of the sends beyond the blows; after each a careful client still knows,
/// or asks a person.
const FAULTS: [&str; 10] = [
    "act_500",
    "act_503",
    "act_reset",
    "reset",
    "503",
    "429 retry_after=1",
    "act_truncate",
    "act_lie",
    "act_late delay_ms=300",
    // under way for long: what falls at random falls upon some of these
    "slow delay_ms=900",
];
/// Every how many-eth job's text asks for one of them.
const FAULT_EVERY: u64 = 12;
/// Milliseconds of load before a blow that isn't aimed, at most: it falls at any moment of these.
const WAIT_MS: u64 = 500;
/// So many kills, and so many of the other blows, are aimed: with those at random enough to hit 50 sends
/// of each class.
const AIMED: (usize, usize) = (14, 10);
/// The same for a quick proof.
const AIMED_QUICK: (usize, usize) = (3, 2);
/// How wrong a daemon's own clock is: further than the lease, and within what clocks may be apart when
/// posts are looked for by their time; it also runs too fast, or too slow.
const CLOCKS: [&str; 4] = ["+4s", "-4s", "+2s x1.02", "-2s x0.98"];

/// A generator of numbers that is the same in each version of this program (SplitMix64).
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// Of a seed, and of what is drawn for.
    pub fn new(seed: u64, what: u64) -> Self {
        let mut draw = Self(seed ^ what.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which isn't 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of several.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let n = self.below(all.len() as u64);
        &all[usize::try_from(n).expect("less than the length of a slice")]
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            let j = usize::try_from(self.below(i as u64 + 1)).expect("less than an index");
            all.swap(i, j);
        }
    }
}

/// A kind that is tried, with an account of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stock {
    /// The kind's name.
    pub kind: String,
    /// The account, of kinds that need one.
    pub account: Option<String>,
}

/// What is wished for.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// What repeats it.
    pub seed: u64,
    /// Jobs, beside those that are brought just before a blow.
    pub jobs: usize,
    /// Blows of each sort.
    pub blows: BTreeMap<Sort, usize>,
    /// Daemons.
    pub daemons: usize,
    /// PostgreSQL and Redis, which can be broken too.
    pub servers: bool,
    /// Under a minute.
    pub quick: bool,
    /// The kinds, each with its accounts.
    pub stock: Vec<Stock>,
    /// The sandbox's address.
    pub sandbox: String,
}

/// A job of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its key, which also begins its text.
    pub key: String,
    /// Its kind.
    pub kind: String,
    /// By which door it comes in.
    pub door: Door,
    /// What is sent.
    pub envelope: Value,
    /// It is meant to end as a dead letter of this code.
    pub meant: Option<&'static str>,
}

/// A blow of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blow {
    /// Of which sort.
    pub sort: Sort,
    /// Whom it hits, of the blows that hit daemons.
    pub hosts: Vec<usize>,
    /// The ledger rather than the queue, of the blows that hit a connection.
    pub ledger: bool,
    /// By how much the ledger's clock jumps.
    pub shift_ms: i64,
    /// How wrong a daemon's own clock is, as libfaketime reads it.
    pub clock: &'static str,
    /// Sends are brought under way first, which the sandbox holds.
    pub aimed: bool,
    /// Of those, so many in ten act before.
    pub acted: u64,
    /// Otherwise, how long after its share of the jobs has come it falls.
    pub wait_ms: u64,
}

/// Blows of each sort that are struck unless others are asked for.
pub fn usual(quick: bool) -> BTreeMap<Sort, usize> {
    let times = |it| match (it, quick) {
        (Sort::Kill, true) => 3,
        (Sort::Kill, false) => 20,
        (_, true) => 1,
        (_, false) => 3,
    };
    Sort::ALL.into_iter().map(|it| (it, times(it))).collect()
}

/// The blows of the wishes, in order.
pub fn blows(wishes: &Wishes) -> Vec<Blow> {
    let mut draw = Draw::new(wishes.seed, 1);
    let mut blows: Vec<Blow> = Vec::new();
    for (sort, times) in &wishes.blows {
        blows.extend((0..*times).map(|n| blow(&mut draw, wishes, *sort, n)));
    }
    draw.shuffle(&mut blows);
    let most = if wishes.quick { AIMED_QUICK } else { AIMED };
    aim(&mut blows, most.0, |it| it == Sort::Kill);
    // what Redis forgets, and what a daemon does before it ends, needs no sends that are held
    let other = |it: Sort| !it.kills() && !it.wipes() && it.is_fault();
    aim(&mut blows, most.1, other);
    blows
}

/// Aims `most` of the blows of some sorts, evenly.
fn aim(blows: &mut [Blow], most: usize, of: impl Fn(Sort) -> bool) {
    let of = blows.iter_mut().filter(|it| of(it.sort));
    let of: Vec<&mut Blow> = of.collect();
    let all = of.len();
    for (n, it) in of.into_iter().enumerate() {
        it.aimed = n * most / all != (n + 1) * most / all;
    }
}

/// One more kill, when so many blows have not hit enough.
pub fn one_more(wishes: &Wishes, n: usize) -> Blow {
    let mut draw = Draw::new(wishes.seed, 2 + n as u64);
    Blow {
        aimed: true,
        ..blow(&mut draw, wishes, Sort::Kill, n)
    }
}

/// The `n`th blow of a sort.
fn blow(draw: &mut Draw, wishes: &Wishes, sort: Sort, n: usize) -> Blow {
    let all = sort == Sort::Kill && draw.below(4) == 0;
    let one = usize::try_from(draw.below(wishes.daemons as u64)).expect("less than the daemons");
    Blow {
        sort,
        hosts: if all {
            (0..wishes.daemons).collect()
        } else {
            vec![one]
        },
        ledger: n.is_multiple_of(2),
        // back and forth: further than the lease, and within what clocks may be apart when posts are
        // looked for by their time
        shift_ms: if n.is_multiple_of(2) { 4_000 } else { -4_000 },
        clock: draw.of::<&str>(&CLOCKS),
        aimed: false,
        // the sends of the killed are those that nobody can clear when they never happened
        acted: if sort == Sort::Kill { 7 } else { 10 },
        wait_ms: draw.below(WAIT_MS),
    }
}

/// Job number `n`.
pub fn job(wishes: &Wishes, n: usize) -> Job {
    let mut draw = Draw::new(wishes.seed, 1_000_000 + n as u64);
    let stock = match draw.below(10) {
        0..4 => Stock {
            kind: "test.job".to_owned(),
            account: None,
        },
        _ => draw.of(&wishes.stock).clone(),
    };
    let door = match draw.below(2) {
        0 if wishes.servers => Door::Inbox,
        _ => Door::Http,
    };
    let fault = match draw.below(FAULT_EVERY) {
        0 => *draw.of(&FAULTS),
        _ => "",
    };
    make(
        wishes,
        &mut draw,
        format!("job-{n:0KEY_DIGITS$}"),
        &stock,
        door,
        fault,
    )
}

/// The jobs that are brought just before blow `n`: of class B and C, in turns.
pub fn volley(wishes: &Wishes, n: usize) -> Vec<Job> {
    let mut draw = Draw::new(wishes.seed, 2_000_000 + n as u64);
    let of = |kind: &str| {
        let of = wishes.stock.iter().filter(|it| it.kind == kind);
        of.cloned().collect::<Vec<Stock>>()
    };
    let classes = [of("post.instagram"), of("post.x")];
    let mut jobs = Vec::new();
    for i in 0..VOLLEY {
        for (class, stock) in classes.iter().enumerate().filter(|it| !it.1.is_empty()) {
            // of their own: the others' begin with 0
            let key = format!(
                "job-9{n:0width$}{:02}",
                2 * i + class,
                width = KEY_DIGITS - 3
            );
            let stock = draw.of(stock).clone();
            jobs.push(make(wishes, &mut draw, key, &stock, Door::Http, ""));
        }
    }
    jobs
}

fn make(
    wishes: &Wishes,
    draw: &mut Draw,
    key: String,
    stock: &Stock,
    door: Door,
    fault: &str,
) -> Job {
    let text = match fault {
        "" => format!("{key} says hello"),
        fault => format!("{key} says [[fault:{fault}]]"),
    };
    let mut meant = None;
    let payload = match stock.kind.as_str() {
        "post.instagram" => json!({"caption": text, "images": [
            {"url": "https://example.com/fox.jpg", "alt": "a fox"}]}),
        "http.call" => json!({"data": text}),
        "generate.text" => json!({"model": "gpt-5-mini", "prompt": text}),
        "illustrate.image" => json!({"model": "dall-e-2", "size": "256x256", "prompt": text}),
        "upload.object" => json!({"url": format!("{}/_sandbox/settings", wishes.sandbox),
            "key": format!("{key}.json")}),
        "test.job" => match draw.below(20) {
            0 => json!({"sleep_ms": 2_000}),
            1 | 2 => json!({"fail_times": 1 + draw.below(2)}),
            3 => json!({"snooze_ms": 200}),
            4 => json!({"panic_times": 1}),
            5 => {
                meant = Some("meant");
                json!({"fail_times": 99, "class": "permanent", "code": "meant"})
            }
            _ => json!({"sleep_ms": draw.below(60)}),
        },
        _ => json!({"text": text}),
    };
    let mut envelope = json!({"v": 1, "kind": stock.kind, "key": key, "payload": payload});
    if let Some(account) = &stock.account {
        envelope["account"] = account.as_str().into();
    }
    Job {
        key,
        kind: stock.kind.clone(),
        door,
        envelope,
        meant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(seed: u64) -> Wishes {
        let stock = ["post.x", "post.instagram", "post.mastodon", "generate.text"];
        let stock = stock.map(|it| Stock {
            kind: it.to_owned(),
            account: Some("a".to_owned()),
        });
        let mut blows = usual(false);
        blows.insert(Sort::Kill, 9);
        Wishes {
            seed,
            jobs: 300,
            blows,
            daemons: 3,
            servers: true,
            quick: false,
            stock: stock.to_vec(),
            sandbox: "http://127.0.0.1:1".to_owned(),
        }
    }

    type Planned = (Vec<Blow>, Vec<Job>, Vec<Job>);

    fn planned(seed: u64) -> Planned {
        let wishes = wishes(seed);
        let jobs = (0..wishes.jobs).map(|n| job(&wishes, n)).collect();
        (blows(&wishes), jobs, volley(&wishes, 3))
    }

    #[test]
    fn the_same_seed_gives_the_same_order() {
        assert_eq!(planned(7), planned(7));
        let (a, b) = (planned(7), planned(8));
        assert_ne!(a.0, b.0);
        assert_ne!(a.1, b.1);
    }

    #[test]
    fn every_sort_is_there_and_every_kind() {
        let (blows, jobs, volley) = planned(1);
        let kills = blows.iter().filter(|it| it.sort == Sort::Kill).count();
        assert_eq!((kills, blows.len()), (9, 9 + 9 * 3));
        assert!(blows.iter().any(|it| it.hosts.len() == 3));
        for kind in ["test.job", "post.x", "post.instagram", "post.mastodon"] {
            assert!(jobs.iter().any(|it| it.kind == kind), "{kind}");
        }
        assert!(jobs.iter().any(|it| it.door == Door::Inbox));
        assert_eq!(volley.len(), 2 * VOLLEY);
        let mut keys: Vec<&str> = jobs.iter().chain(&volley).map(|it| &*it.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), jobs.len() + volley.len(), "each key once");
        assert!(keys.iter().all(|it| it.len() == "job-".len() + KEY_DIGITS));
    }

    #[test]
    fn the_largest_plan_has_keys_of_its_own() {
        let wishes = wishes(1);
        let last = volley(&wishes, 50_060).pop().unwrap();
        assert_eq!(last.key, "job-95006009");
        assert_eq!(job(&wishes, 799_999).key, "job-00799999");
    }

    #[test]
    fn some_are_aimed_and_the_others_fall_at_random() {
        let mut wishes = wishes(1);
        wishes.blows.insert(Sort::Kill, 1_000);
        let planned = blows(&wishes);
        let aimed = |of: fn(Sort) -> bool| {
            let of = planned.iter().filter(|it| of(it.sort));
            of.filter(|it| it.aimed).count()
        };
        assert_eq!(aimed(|it| it == Sort::Kill), AIMED.0);
        assert_eq!(aimed(|it| it != Sort::Kill), AIMED.1);
        assert_eq!(aimed(|it| it.wipes() || !it.is_fault()), 0);
        let late = planned.iter().rev().take(200);
        assert!(late.filter(|it| it.aimed).count() < 24, "evenly");
        wishes.blows = usual(true);
        let few = blows(&wishes);
        let kills = few.iter().filter(|it| it.sort == Sort::Kill);
        assert!(kills.map(|it| it.aimed).eq([true; 3]));
    }

    #[test]
    fn an_embedded_plan_needs_no_door_that_isnt_there() {
        let mut wishes = wishes(1);
        (wishes.servers, wishes.daemons) = (false, 1);
        assert!((0..50).all(|n| job(&wishes, n).door == Door::Http));
    }
}
