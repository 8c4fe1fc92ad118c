//! What generations cost, as a budget of money counts it.

use presswork::budget::{Budget, Currency, Every, Form, Per};
use presswork::config::Model;
use presswork::engine::gatekeeper::Gatekeeper;

use super::*;

/// What the ledger says of the one budget: used, and of that reserved.
async fn spent(press: &Press, form: &Form) -> (u64, u64) {
    let counted = press.ledger.all_counted().await.unwrap();
    let now = press.ledger.now().await.unwrap();
    let of = |uses: &presswork::budget::Uses| (uses.used(form, now), uses.reserved(form, now));
    counted.first().map_or((0, 0), |it| of(&it.uses))
}

#[tokio::test]
async fn a_budget_of_money_counts_what_each_send_costs() {
    let mut press = Press::new().await;
    let form = Form::Spend {
        most: 1_000_000,
        currency: Currency::USD,
        every: Every::Month,
        zone: chrono_tz::Tz::UTC,
    };
    let budget = Budget::of_all(form, Per::Account);
    let budgets = BTreeMap::from([("money".to_owned(), budget)]);
    let gate = Gatekeeper::start(press.ledger.clone(), budgets);
    let told = gate.clone();
    tokio::spawn(async move { told.run().await });
    press.tools.gate = Some(gate);
    let payload = json!({"model": "gpt-4o-mini", "prompt": "a bear", "max_tokens": 1_000});
    let job = press.job("generate.text", Some("openai"), &payload).await;

    // nobody said what the model costs: nothing is sent
    let held = press.attempt(&job).await;
    assert!(matches!(held, Outcome::Held(Held::Budget, _)), "{held}");
    assert!(held.to_string().contains("[models.gpt-4o-mini]"), "{held}");
    assert_eq!(press.seen("requests", "chat.completion").await.len(), 0);

    let price = Model {
        input_micros_per_mtok: 150_000_000,
        output_micros_per_mtok: 600_000_000,
        ..Model::default()
    };
    let models = &mut Arc::make_mut(&mut press.config).models;
    models.insert("gpt-4o-mini".to_owned(), price);
    let until = async |what: &str, wanted: (u64, u64)| {
        kit::wait::until(what, TIMEOUT, async || spent(&press, &form).await == wanted).await;
    };
    press.fault("chat.completion", "429").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Throttled));
    until("what was refused is given back", (0, 0)).await;

    // the answer is lost: the estimate stays, as if the daemon had died
    press.fault("chat.completion", "act_504").await;
    assert_eq!(class(&press.attempt(&job).await), Some(Class::Unknown));
    let (used, reserved) = spent(&press, &form).await;
    assert!(600_000 <= used && used == reserved, "{used} {reserved}");

    // a repeat is paid for again, and doesn't fit beside it
    let full = press.attempt(&job).await;
    assert_eq!(class(&full), Some(Class::Throttled), "{full}");
    assert!(full.to_string().contains("of 1.00 USD"), "{full}");
    let small = json!({"model": "gpt-4o-mini", "prompt": "a bear", "max_tokens": 10});
    let other = press.job("generate.text", Some("openai"), &small).await;
    let cost = completed(press.attempt(&other).await)["cost_micros"].clone();
    let cost = cost.as_u64().expect("it has a price");
    until("the cost is counted", (used + cost, used)).await;

    // one that never fits isn't asked about each day anew
    let large = json!({"model": "gpt-4o-mini", "prompt": "a bear", "max_tokens": 9_000});
    let large = press.job("generate.text", Some("openai"), &large).await;
    let held = press.attempt(&large).await;
    assert!(matches!(held, Outcome::Held(Held::Budget, _)), "{held}");
}
