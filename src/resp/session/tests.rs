//! What follows from what clients say.

use secrecy::ExposeSecret as _;

use super::commands::COMMANDS;
use super::*;
use crate::clock::Time;
use crate::token::{Grant, Minted};

const TOKEN: &str = "presswork_1_0123456789abcdef";

fn access(token: Option<&str>) -> Access {
    let token = token.map(Into::into);
    Access::new("127.0.0.1:0".parse().unwrap(), token.as_ref()).unwrap()
}

fn request(line: &str) -> Request {
    let words = line.split(' ').map(|it| it.as_bytes().to_vec()).collect();
    Request {
        words,
        ..Request::default()
    }
}

/// What each of these lines leads to.
fn steps(token: Option<&str>, lines: &[&str]) -> Vec<Step> {
    let mut session = Session::new(7, token.is_none());
    let access = access(token);
    let step = |it: &&str| session.step(request(it), &access);
    lines.iter().map(step).collect()
}

fn wrong(step: &Step) -> &str {
    match step {
        Step::Say(Reply::Error(text)) | Step::End(Reply::Error(text)) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn nothing_is_done_without_the_token() {
    for line in [
        "PING",
        "RPUSH presswork:inbox {}",
        "MULTI",
        "INFO",
        "CLIENT ID",
        "HELLO 3",
        "NONSENSE",
    ] {
        let told = steps(Some(TOKEN), &[line]);
        assert!(wrong(&told[0]).starts_with("NOAUTH "), "{line}: {told:?}");
    }
    let auth = format!("AUTH {TOKEN}");
    let user = format!("HELLO 3 AUTH anybody {TOKEN} SETNAME me");
    for line in [&auth, &user] {
        let told = steps(Some(TOKEN), &[line, "PING", "RESET", "PING"]);
        assert_eq!(told[1], Step::Say(Reply::Simple("PONG")), "{told:?}");
        assert!(wrong(&told[3]).starts_with("NOAUTH "), "{told:?}");
    }
    let mut tries = vec!["AUTH nonsense"; WRONG_MAX as usize];
    tries[3] = "HELLO 3 AUTH default nonsense";
    let told = steps(Some(TOKEN), &tries);
    assert!(
        told.iter().all(|it| wrong(it).starts_with("WRONGPASS ")),
        "{told:?}"
    );
    assert!(matches!(told.last(), Some(Step::End(_))), "{told:?}");
    assert!(!format!("{told:?}").contains("nonsense"));
}

#[test]
fn a_key_names_the_tenant_or_is_refused() {
    assert_eq!(tenant(b"presswork:inbox"), Ok(None));
    assert_eq!(tenant(b"presswork:inbox:acme"), Ok(Some("acme".to_owned())));
    for key in [
        "",
        "presswork",
        "presswork:inbox:",
        "presswork:inboxacme",
        "presswork:inbox:a b",
        "inbox",
    ] {
        assert!(tenant(key.as_bytes()).is_err(), "{key}");
    }
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let told = steps(
        None,
        &[
            "MULTI",
            "RPUSH presswork:inbox a",
            "PING",
            "PRESSWORK.ENQUEUE b c",
            "EXEC",
            "EXEC",
        ],
    );
    let Step::Together(queued) = &told[4] else {
        panic!("{told:?}");
    };
    assert_eq!(queued.len(), 3);
    assert!(matches!(&queued[2], Queued::Take(it) if it.ids && it.envelopes.len() == 2));
    assert!(wrong(&told[5]).contains("without MULTI"));
    for bad in [
        "GET a",
        "RPUSH nowhere a",
        "RPUSH presswork:inbox",
        "AUTH x",
        "SELECT 1",
    ] {
        let told = steps(
            None,
            &[
                "MULTI",
                "RPUSH presswork:inbox a",
                bad,
                "RPUSH presswork:inbox b",
                "EXEC",
            ],
        );
        assert!(!wrong(&told[2]).is_empty());
        assert!(wrong(&told[4]).starts_with("EXECABORT "), "{told:?}");
    }
    let told = steps(None, &["MULTI", "MULTI", "DISCARD", "DISCARD"]);
    assert!(wrong(&told[1]).contains("nested"));
    assert_eq!(told[2], Step::Say(Reply::Simple("OK")));
    assert!(wrong(&told[3]).contains("without MULTI"));
}

#[test]
fn a_transaction_that_is_too_much_holds_nothing() {
    let mut session = Session::new(1, true);
    let access = access(None);
    session.step(request("MULTI"), &access);
    for _ in 0..TRANSACTION_MAX {
        let step = session.step(request("RPUSH presswork:inbox x"), &access);
        assert_eq!(step, Step::Say(Reply::Simple("QUEUED")));
    }
    assert_eq!(session.held(), TRANSACTION_MAX);
    let step = session.step(request("PING"), &access);
    assert!(wrong(&step).starts_with("TOOLARGE "), "{step:?}");
    assert_eq!(session.held(), 0);
    let large = format!("RPUSH presswork:inbox {}", "x".repeat(ENVELOPE_MAX));
    session.step(request(&large), &access);
    let step = session.step(request("EXEC"), &access);
    assert!(wrong(&step).starts_with("EXECABORT "), "{step:?}");
}

#[test]
fn every_command_of_the_list_is_known_and_others_are_told_what_there_is() {
    for (name, _, _) in COMMANDS {
        let told = steps(None, &[name]);
        let unknown = matches!(&told[0], Step::Say(Reply::Error(it)) if it.contains("isn't known"));
        assert!(!unknown, "{told:?}");
    }
    let told = steps(
        None,
        &[
            "CONFIG SET requirepass hunter2",
            "CLIENT LIST",
            "SELECT 1",
            "COMMAND COUNT",
        ],
    );
    assert!(wrong(&told[0]).contains("`config` isn't known") && wrong(&told[0]).contains("RPUSH"));
    assert!(!wrong(&told[0]).contains("hunter2"));
    assert!(wrong(&told[1]).contains("SETNAME"));
    assert_eq!(told[3], Step::Say(Reply::Number(16)));
}

#[test]
fn what_a_browser_was_made_to_send_ends_the_connection() {
    let mut session = Session::new(1, true);
    let line = Request {
        inline: true,
        ..request("POST / HTTP/1.1")
    };
    let step = session.step(line, &access(None));
    assert!(matches!(&step, Step::End(_)), "{step:?}");
    assert!(wrong(&step).contains("HTTP"));
}

/// A token of these scopes, and how it is shown.
fn token(scopes: &str, tenant: Option<&str>) -> (Arc<Token>, String) {
    let minted = Minted::new().unwrap();
    let grant = Grant::read(scopes, tenant.map(str::to_owned)).unwrap();
    let token = Token {
        id: minted.id,
        name: "n".to_owned(),
        digest: minted.digest,
        grant,
        created_at: Time::UNIX_EPOCH,
        created_by: "ada".to_owned(),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    };
    (Arc::new(token), minted.text.expose_secret().to_owned())
}

/// As the link does: what a request shows is learnt before it is answered.
fn say(session: &mut Session, line: &str, found: Result<Arc<Token>, Denied>) -> Step {
    let request = request(line);
    if let Some(shown) = session.shows(&request) {
        session.learn(shown, found);
    }
    session.step(request, &access(Some(TOKEN)))
}

#[test]
fn what_is_learnt_of_one_token_lets_no_other_in() {
    let (one, shown) = token("enqueue", None);
    let (_, other) = token("enqueue", None);
    let mut session = Session::new(1, false);
    // an answer that was learnt for another token than the one that is shown then
    session.learn(Shown::parse(shown.as_bytes()).unwrap(), Ok(one.clone()));
    let step = session.step(request(&format!("AUTH {other}")), &access(Some(TOKEN)));
    assert!(wrong(&step).starts_with("WRONGPASS "), "{step:?}");
    assert!(!session.is_trusted());
    // nor is what was learnt kept for the next one
    let step = session.step(request(&format!("AUTH {shown}")), &access(Some(TOKEN)));
    assert!(wrong(&step).starts_with("WRONGPASS "), "{step:?}");
    let step = say(&mut session, &format!("AUTH x {shown}"), Ok(one));
    assert_eq!(step, Step::Say(Reply::Simple("OK")));
    assert!(session.is_trusted());
}

#[test]
fn a_session_loses_what_its_token_loses() {
    let (one, shown) = token("enqueue", Some("acme"));
    let own = Shown::parse(shown.as_bytes()).unwrap();
    let mut session = Session::new(1, false);
    say(&mut session, &format!("AUTH {shown}"), Ok(one.clone()));
    let push = "RPUSH presswork:inbox a";
    let step = say(&mut session, push, Err(Denied::Wrong));
    assert!(
        matches!(&step, Step::Take(it) if it.tenant.as_deref() == Some("acme")),
        "{step:?}"
    );
    session.learn(own, Err(Denied::Away("db-7".to_owned())));
    let step = say(&mut session, push, Err(Denied::Wrong));
    assert!(wrong(&step).starts_with("LOADING ") && !wrong(&step).contains("db-7"));
    session.learn(own, Ok(one));
    let step = say(&mut session, "MULTI", Err(Denied::Wrong));
    assert_eq!(step, Step::Say(Reply::Simple("OK")));
    session.learn(own, Err(Denied::Revoked));
    assert!(!session.is_trusted() && !session.is_midway());
    let step = say(&mut session, "EXEC", Err(Denied::Wrong));
    assert!(wrong(&step).starts_with("NOAUTH "), "{step:?}");
}
