use super::*;

#[test]
fn who_does_a_job_in_its_accounts_stead_is_told_and_what_closes_that_one_doesnt_keep_it() {
    let mut config = config();
    for name in ["a", "b"] {
        let url = Url::parse("https://ai.example").unwrap();
        let account = Account::at("openai", url);
        config.accounts.insert(name.to_owned(), account);
    }
    let (account, model) = ("b".to_owned(), None);
    let settings = config.kinds.entry("generate.text".to_owned());
    settings.or_default().fallbacks = vec![Fallback { account, model }];
    let mut facts = facts(State::Ready);
    facts.kind_known = true;
    facts.job.kind = "generate.text".to_owned();
    facts.job.account = Some("a".to_owned());
    let closed = |cause, account: &str| {
        let scope = Area {
            account: Some(account.to_owned()),
            ..Area::default()
        };
        Closure::new(cause, scope, ("presswork", "http_503"), at(-10))
    };
    let fallback = |facts: &Facts| {
        let it = told(facts, &config);
        let said = it.fallback.map(|it| (it.account, it.text));
        (said, it.constraints.len())
    };
    assert_eq!(fallback(&facts), (None, 0));
    facts.closures = vec![closed(Cause::Breaker, "a")];
    let (said, kept) = fallback(&facts);
    let (account, text) = said.expect("it goes to another one");
    assert_eq!((&*account, kept), ("b", 0));
    assert!(text.contains("`b`: account `a` keeps failing"), "{text}");
    assert_eq!(seen(&facts, &config, Eyes::User).fallback, None);
    // both are closed
    facts.closures.push(closed(Cause::Breaker, "b"));
    assert_eq!(fallback(&facts), (None, 2));
    // it was sent there
    let of = (facts.job.id, 0);
    let sent = |account: &str| Effect {
        state: EffectState::Unknown,
        ..Effect::new(of, ("generate", 0), account, "openai.text", EffectClass::P)
    };
    facts.effects = vec![sent("b")];
    let (said, kept) = fallback(&facts);
    assert_eq!((said.map(|it| it.0), kept), (Some("b".to_owned()), 1));
    facts.effects = vec![sent("a")];
    assert_eq!(fallback(&facts), (None, 1));
    // a budget that is used up for long is as good as closed
    (facts.effects, facts.closures) = (vec![], vec![]);
    let budget = Budget {
        form: Form::Rolling {
            most: 0,
            window: Duration::hours(1),
        },
        account: Some("a".to_owned()),
        per: Per::Account,
        platform: None,
        app: None,
        tenant: None,
        kind: None,
        op: None,
        amount: 1,
        published: false,
        reserve: true,
    };
    config.budgets.insert("texts".to_owned(), budget);
    let it = told(&facts, &config);
    let (said, kept) = (it.fallback.map(|it| it.account), it.constraints);
    assert_eq!((said.as_deref(), kept), (Some("b"), vec![]));
}
