//! The report as one page that needs nothing else: what was found, a timeline that a person can read, and
//! what was broken.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::check::Verdict;
use super::evidence::{Evidence, Life, Ms, Progress, Sort, Strike};
use super::faults::fell_on;
use super::outside::{Class, Request, class};
use super::proof::Proof;
use super::report;

const CSS: &str = include_str!("page.css");
/// The timeline's width, and where time begins in it, in pixels.
const WIDTH: f64 = 1_120.0;
const LEFT: f64 = 96.0;
/// Pixels a second, at least: a long proof is scrolled.
const SECOND: f64 = 4.0;
/// The height of a row, and of one send.
const ROW: f64 = 22.0;
const SEND: f64 = 5.0;
/// Sends that are drawn; more are too many to see.
const SENDS_MAX: usize = 6_000;

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// The page.
pub fn page(proof: &Proof) -> String {
    let it = &proof.verdict;
    let tone = if it.proven { "good" } else { "bad" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>presswork prove: {outcome}</title>\n<style>{CSS}</style>\n\
         <h1>presswork prove</h1>\n<p class=\"outcome {tone}\">{outcome}</p>\n\
         <p class=\"faint\">Broken: {broken}.</p>\n",
        outcome = escaped(&report::outcome(it)),
        broken = escaped(&report::broken(it)),
    );
    wrong(&mut page, it);
    page.push_str("<h2>What was found</h2>\n<table>\n");
    for line in report::lines(it) {
        let tone = match line.good {
            Some(true) => " good",
            Some(false) => " bad",
            None => "",
        };
        let (name, value, about) = (line.name, &line.value, escaped(&line.about));
        let _ = writeln!(
            page,
            "<tr><td><code>{name}</code><td class=\"n{tone}\">{value}<td class=\"faint\">{about}"
        );
    }
    page.push_str("</table>\n<h2>When</h2>\n<div class=\"figure\">\n");
    timeline(&mut page, proof);
    page.push_str(
        "</div>\n<div class=\"legend\">\
         <span><i class=\"life\"></i>a daemon lives</span>\
         <span><i class=\"down\"></i>down, stopped or not heard</span>\
         <span><i class=\"end\"></i>killed, or ended by itself</span>\
         <span><i class=\"answered\"></i>a send, answered</span>\
         <span><i class=\"acted\"></i>acted, and nobody heard the answer</span>\
         <span><i class=\"nothing\"></i>did nothing, and nobody heard of that</span>\
         <span><i class=\"accepted\"></i>jobs acknowledged</span>\
         <span><i class=\"ended\"></i>jobs ended</span></div>\n\
         <h2>What was broken</h2>\n<table>\n\
         <tr><th class=\"n\">#<th class=\"n\">at<th class=\"n\">took<th>what\
         <th class=\"n\">B in flight<th class=\"n\">C in flight\n",
    );
    strikes(&mut page, proof);
    page.push_str("</table>\n");
    if !it.left_out.is_empty() {
        page.push_str("<h2>What was left out</h2>\n");
        for what in &it.left_out {
            let _ = writeln!(page, "<p class=\"faint\">{}</p>", escaped(what));
        }
    }
    page
}

fn wrong(page: &mut String, it: &Verdict) {
    let wrong: Vec<&String> = it.violations.iter().chain(&it.missing).collect();
    if !wrong.is_empty() {
        page.push_str("<h2>What is wrong</h2>\n");
        for what in wrong {
            let _ = writeln!(page, "<p class=\"bad\">{}</p>", escaped(what));
        }
    }
}

fn strikes(page: &mut String, proof: &Proof) {
    let evidence = &proof.evidence;
    let mut hit: HashMap<(usize, Option<Class>), usize> = HashMap::new();
    for it in &proof.requests {
        for strike in fell_on(&evidence.strikes, it) {
            *hit.entry((strike.n, class(&it.op))).or_default() += 1;
        }
    }
    for it in &evidence.strikes {
        let of = |wanted: Class| hit.get(&(it.n, Some(wanted))).copied().unwrap_or_default();
        let seconds = |ms: Ms| ms as f64 / 1_000.0;
        let _ = writeln!(
            page,
            "<tr><td class=\"n\">{}<td class=\"n\">{:.1} s<td class=\"n\">{:.1} s<td>{}\
             <td class=\"n\">{}<td class=\"n\">{}",
            it.n,
            seconds(it.at - evidence.began),
            seconds(it.until - it.at),
            escaped(&it.what),
            of(Class::B),
            of(Class::C),
        );
    }
}

/// The drawing of a timeline, as it grows downwards.
struct Drawing<'a> {
    evidence: &'a Evidence,
    width: f64,
    y: f64,
    svg: String,
}

impl Drawing<'_> {
    fn x(&self, at: Ms) -> f64 {
        let all = (self.evidence.ended - self.evidence.began).max(1) as f64;
        let part = (at - self.evidence.began) as f64 / all;
        LEFT + (self.width - LEFT - 8.0) * part.clamp(0.0, 1.0)
    }

    fn bar(&mut self, (from, until): (Ms, Ms), height: f64, tone: &str, title: &str) {
        let (x, end) = (self.x(from), self.x(until));
        let _ = writeln!(
            self.svg,
            "<rect class=\"{tone}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height}\" \
             rx=\"1.5\"><title>{}</title></rect>",
            self.y,
            (end - x).max(1.5),
            escaped(title)
        );
    }

    fn name(&mut self, name: &str) {
        let _ = writeln!(
            self.svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>",
            self.y + 12.0,
            escaped(name)
        );
    }

    /// When a process, or a server, was there, and when not.
    fn row(&mut self, name: &str, lives: &[Life], downs: &[(&Strike, bool)]) {
        self.name(name);
        for it in lives {
            self.bar((it.from, it.until), 14.0, "life", &it.end);
        }
        let ends = lives.iter().filter(|it| it.until < self.evidence.calm);
        for it in ends {
            // too short to be seen as a gap
            self.bar((it.until, it.until), 14.0, "end", &it.end);
        }
        for (it, _) in downs.iter().filter(|it| it.1) {
            self.bar((it.at, it.until), 14.0, "down", &it.what);
        }
        self.y += ROW;
    }

    /// Jobs that were acknowledged, and those that had ended.
    fn progress(&mut self) {
        self.name("jobs");
        let all = &self.evidence.progress;
        let most = all.iter().map(|it| it.accepted.max(it.ended)).max();
        let most = most.unwrap_or_default().max(1);
        let (top, high) = (self.y, 2.0 * ROW);
        for (tone, of) in [
            ("accepted", (|it| it.accepted) as fn(&Progress) -> usize),
            ("ended", |it| it.ended),
        ] {
            let mut points = String::new();
            for it in all {
                let y = top + high * (1.0 - of(it) as f64 / most as f64);
                let _ = write!(points, "{:.1},{y:.1} ", self.x(it.at));
            }
            let _ = writeln!(self.svg, "<polyline class=\"{tone}\" points=\"{points}\"/>");
        }
        let _ = writeln!(
            self.svg,
            "<text class=\"faint\" x=\"0\" y=\"{:.1}\">{most} at most</text>",
            top + 28.0
        );
        self.y = top + high + 8.0;
    }

    /// The sends of a class, each below the one that is still under way.
    fn sends(&mut self, name: &str, sends: &[(&Request, &str)]) {
        self.name(name);
        let (top, mut rows) = (self.y, Vec::<f64>::new());
        for (it, tone) in sends {
            let end = it.end.unwrap_or(self.evidence.ended);
            let x = self.x(it.at);
            let free = rows.iter().position(|until| *until <= x);
            let row = free.unwrap_or_else(|| {
                rows.push(0.0);
                rows.len() - 1
            });
            rows[row] = self.x(end).max(x + 2.0);
            self.y = top + SEND * row as f64;
            let title = format!("{} {} ({} ms)", it.key, it.op, end - it.at);
            self.bar((it.at, end), SEND - 1.0, tone, &title);
        }
        self.y = top + ROW.max(SEND * rows.len() as f64 + 8.0);
    }
}

fn timeline(page: &mut String, proof: &Proof) {
    let evidence = &proof.evidence;
    let seconds = (evidence.ended - evidence.began).max(1_000) as f64 / 1_000.0;
    let mut drawing = Drawing {
        evidence,
        width: WIDTH.max(LEFT + seconds * SECOND),
        y: 34.0,
        svg: String::new(),
    };
    for n in 0..evidence.daemons {
        let who = format!("daemon {}", n + 1);
        let lives: Vec<Life> = evidence
            .lives
            .iter()
            .filter(|it| it.who == who)
            .cloned()
            .collect();
        // who is hit stands in the words: `daemon 1 and 2`
        let named = |it: &Strike| {
            let words = it.what.split_once("daemon ").map_or("", |it| it.1);
            let mut words = words.split_whitespace();
            words.any(|word| word.parse() == Ok(n + 1))
        };
        let silent = |it: &Strike| matches!(it.sort, Sort::Freeze | Sort::Hole) && named(it);
        let downs: Vec<(&Strike, bool)> =
            evidence.strikes.iter().map(|it| (it, silent(it))).collect();
        drawing.row(&who, &lives, &downs);
    }
    if !evidence.embedded {
        for (name, sorts) in [
            ("Redis", [Sort::Redis, Sort::Flush]),
            ("PostgreSQL", [Sort::Postgres, Sort::Postgres]),
        ] {
            let life = Life {
                who: name.to_owned(),
                from: evidence.began,
                until: evidence.ended,
                end: name.to_owned(),
            };
            let strikes = evidence.strikes.iter();
            let downs: Vec<_> = strikes.map(|it| (it, sorts.contains(&it.sort))).collect();
            drawing.row(name, &[life], &downs);
        }
    }
    let acted: HashSet<&str> = proof.acts.iter().map(|it| it.key.as_str()).collect();
    for (name, wanted) in [("class B", Class::B), ("class C", Class::C)] {
        let of = proof
            .requests
            .iter()
            .filter(|it| class(&it.op) == Some(wanted));
        let sends: Vec<(&Request, &str)> = of
            .take(SENDS_MAX)
            .map(|it| match (it.status, acted.contains(it.key.as_str())) {
                (Some(_), _) => (it, "answered"),
                (None, true) => (it, "acted"),
                (None, false) => (it, "nothing"),
            })
            .collect();
        drawing.sends(name, &sends);
    }
    drawing.progress();
    let height = drawing.y;
    let mut over = String::new();
    grid(&mut over, &drawing, seconds, height);
    let _ = write!(
        page,
        "<svg width=\"{w:.0}\" height=\"{h:.0}\" viewBox=\"0 0 {w:.0} {h:.0}\" role=\"img\" \
         aria-label=\"timeline\">\n{}{over}</svg>\n",
        drawing.svg,
        w = drawing.width,
        h = height + 18.0,
    );
}

/// Seconds below, and the strikes across.
fn grid(over: &mut String, drawing: &Drawing<'_>, seconds: f64, height: f64) {
    let steps = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600];
    let per_second = (drawing.width - LEFT) / seconds;
    let step = steps
        .into_iter()
        .find(|it| 60.0 < f64::from(*it) * per_second);
    let step = step.unwrap_or(7_200);
    let mut at = 0;
    while f64::from(at) <= seconds {
        let x = drawing.x(drawing.evidence.began + i64::from(at) * 1_000);
        let _ = writeln!(
            over,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"faint\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at} s</text>",
            height,
            height + 4.0,
            height + 16.0
        );
        at += step;
    }
    let mut free = [0.0_f64; 2];
    for it in &drawing.evidence.strikes {
        let x = drawing.x(it.at);
        // numbers that would touch stand one above the other
        let line = free.iter().position(|until| *until <= x).unwrap_or(1);
        free[line] = x + 16.0;
        let y = 26.0 - 11.0 * line as f64;
        let _ = writeln!(
            over,
            "<line class=\"blow\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"30\" y2=\"{height:.1}\"/>\
             <text class=\"strike\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}\
             <title>{}</title></text>",
            it.n,
            escaped(&it.what)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes() {
        let request = |at, end, status| Request {
            key: "job-000001".to_owned(),
            op: "post.create".to_owned(),
            writes: true,
            at,
            end,
            status,
            fault: None,
        };
        let strike = Strike {
            n: 1,
            what: "kill -9 of daemon 1 <b>".to_owned(),
            at: 2_000,
            until: 3_000,
            ..Strike::default()
        };
        let proof = Proof {
            evidence: Evidence {
                daemons: 2,
                ended: 10_000,
                strikes: vec![strike],
                ..Evidence::default()
            },
            acts: Vec::new(),
            requests: vec![
                request(1_000, Some(2_100), None),
                request(1_500, None, None),
            ],
            verdict: Verdict {
                violations: vec!["a & b".to_owned()],
                ..Verdict::default()
            },
        };
        let page = page(&proof);
        assert!(page.contains("daemon 1 &lt;b&gt;") && page.contains("a &amp; b"));
        for outside in ["http://", "https://", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("class=\"nothing\" x=").count(), 2);
        assert_eq!(
            page.matches("<rect").count(),
            page.matches("</rect>").count()
        );
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
