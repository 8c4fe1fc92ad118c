//! What was done by half is finished, and what can't be done keeps nothing else from it.

use presswork::effect::EffectState;
use presswork::ledger::Ledger as _;
use presswork::lifecycle::State;

use crate::shop::Shop;
use crate::{lost, post};

#[tokio::test]
async fn a_resolve_that_was_cut_off_is_finished_and_told_once() {
    let shop = Shop::open().await;
    // its effect was concluded, and then the command died
    let id = shop
        .sent(&post("cut off"), EffectState::Refused, lost())
        .await;
    assert_eq!(shop.job(id).await.state, State::Unresolved);
    let resolve = format!("unresolved resolve {id} --did-not-happen");
    assert_eq!(shop.json(&resolve, 0).await["state"], "ready");
    let whole = shop
        .sent(&post("whole"), EffectState::Unresolved, lost())
        .await;
    let resolve = format!("unresolved resolve {whole} --did-not-happen --reason looked");
    assert_eq!(shop.json(&resolve, 0).await["state"], "ready");
    for id in [id, whole] {
        let audit = shop.ledger.audit(Some(id), 10).await.unwrap();
        assert_eq!(audit.len(), 1, "{audit:?}");
    }
}

#[tokio::test]
async fn one_that_is_not_there_keeps_no_other_from_being_discarded() {
    let shop = Shop::open().await;
    let id = shop.quarantine(b"no JSON").await;
    let gone = "01a2013b-d0be-76ac-aca2-68db3205294d";
    let told = shop
        .json(&format!("quarantine discard {gone} {id} --reason x"), 4)
        .await;
    assert_eq!(told["discarded"], serde_json::json!([id]));
    assert_eq!(told["refused"][0]["id"], gone);
}
