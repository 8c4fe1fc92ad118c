//! Fallbacks under load: two daemons and two OpenAIs, of which one fails, loses answers and works again,
//! while daemons are killed amid their sends.

use presswork::effect::EffectState;

use super::*;

const JOBS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_paid_for_at_two_providers_while_one_fails_and_daemons_die() {
    let mut case = Case::new().await;
    let spare = Outside::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("spare.secret");
    std::fs::write(&secret, "sandbox-spare").expect("a secret can be written");
    case.stores.more = format!(
        "[breaker]\nfailures = 3\ncool_down_s = 2\n[lanes.openai]\nconcurrency = 6\n\
         [accounts.spare]\nplatform = \"openai\"\nbase_url = \"{}/openai\"\nsecret = {{ file = \"{}\" }}\n\
         [kinds.\"generate.text\"]\nfallbacks = [{{ account = \"spare\" }}]\n",
        spare.url,
        secret.display()
    );
    let hosts = [case.host(), case.host()];
    let mut daemons = hosts.each_ref().map(Host::run);
    for (host, daemon) in hosts.iter().zip(&daemons) {
        host.queue_in_use(daemon).await;
    }
    for (fault, times, after) in [("act_504", 2, 0), ("503", 5, 4)] {
        let script = json!({"platform": "openai", "op": "chat.completion", "fault": fault,
            "times": times, "after": after});
        case.outside.fault(&script).await;
    }
    let keys: Vec<String> = (0..JOBS).map(|n| format!("text-{n:04}-end")).collect();
    let envelopes = keys.iter().map(|key| {
        json!({"kind": "generate.text", "account": "studio", "key": key,
            "payload": {"model": "gpt-5-mini", "prompt": key}})
    });
    let envelopes: Vec<Value> = envelopes.collect();
    let ids = accept_directly(&*case.ledger, &rules(&hosts[0]), &envelopes).await;
    let ids = ids.expect("the ledger takes them");
    let at_spare = async |count: usize| {
        let what = format!("{count} texts were written at the other one");
        wait::until(&what, ENDED, async || count <= spare.acts().await.len()).await;
    };
    for (n, count) in [(0, 8), (1, 24)] {
        at_spare(count).await;
        daemons[n].kill9();
        daemons[n] = hosts[n].run();
    }
    wait::until("all have ended", ENDED, async || {
        let counts = case.ledger.counts().await.expect("the ledger answers");
        let open = |it: State| !it.is_terminal() && it != State::Unresolved;
        counts.iter().all(|it| *it.1 == 0 || !open(it.0.1))
    })
    .await;
    let (mine, other) = (case.outside.acts().await, spare.acts().await);
    let of = |acts: &[Value], key: &str| {
        let its = acts.iter().filter(|it| it.to_string().contains(key));
        its.count()
    };
    let mut moved = 0;
    for (key, id) in keys.iter().zip(&ids) {
        let job = case.one(*id).await;
        let (here, there) = (of(&mine, key), of(&other, key));
        assert!(
            here == 0 || there == 0,
            "{key}: {here} and {there}: {job:?}"
        );
        assert!(
            (1..=2).contains(&(here + there)),
            "{key}: {here} and {there}"
        );
        assert_ne!(job.state, State::Dead, "{job:?}");
        let effects = case.ledger.effects(*id).await.expect("they are told");
        let sent = effects
            .iter()
            .filter(|it| it.state != EffectState::Intended);
        let accounts: BTreeSet<&str> = sent.map(|it| it.account.as_str()).collect();
        let only = if there == 0 { "studio" } else { "spare" };
        assert_eq!(accounts, BTreeSet::from([only]), "{key}");
        moved += usize::from(0 < there);
    }
    println!("{moved} of {JOBS} went to the other one");
    assert!((24..JOBS).contains(&moved), "{moved}");
}
