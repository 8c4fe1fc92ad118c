//! A text that is written in the background: begun once, asked about until it has ended, from any host.

use std::time::Duration;

use serde_json::{Value, json};

use crate::adopt::{self, Work};
use crate::config::Account;
use crate::context::{Context, Permit, Wanted};
use crate::effect::Receipt;
use crate::outcome::Outcome;
use crate::platform::openai::Chat;
use crate::platform::openai_responses::{self, Ended};

use super::super::paid;
use super::made::{Made, sends};

/// What beginning may take: OpenAI answers before the model does.
const BEGIN: Duration = Duration::from_secs(60);
/// What a question may take.
const CALL: Duration = Duration::from_secs(20);
/// The longest that it is asked about.
const MOST: Duration = Duration::from_secs(6 * 3_600);

/// The text, once it is written. One that failed is begun anew by a later attempt, as another effect.
pub(super) async fn written(
    cx: &Context,
    account: &Account,
    chat: &Chat,
    intent: Value,
) -> Result<Made, Outcome> {
    let mut spent = 0;
    for ordinal in 0.. {
        cx.go_on()?;
        let (receipt, is_new) = begun(cx, account, chat, &intent, ordinal).await?;
        spent += sends(&receipt);
        let id = receipt.remote_id.as_deref().unwrap_or_default();
        let place = openai_responses::place(account, id);
        let work = Work {
            by: "OpenAI",
            handle: id,
            since: receipt.at,
            place: &format!("at {place}, for whoever has the account's key"),
            is_new,
            most: MOST,
        };
        let mut is_news = false;
        let step = format!("generated-{ordinal}");
        let recorded = cx.step(&step, async {
            is_news = true;
            ended(cx, account, &work).await
        });
        let recorded = recorded.await?;
        let seen = match &recorded {
            Ended::Written(it) => format!("{id} has ended: {}", it.finish_reason),
            Ended::Failed(it) => format!("{id} has ended: {it}"),
        };
        let cost = match &recorded {
            Ended::Written(it) => it.cost_micros,
            Ended::Failed(_) => None,
        };
        if is_news {
            cx.paid("generate", ordinal, cost).await;
        }
        cx.let_go(id, &seen).await?;
        match recorded {
            Ended::Written(completion) => {
                let sends = spent;
                return Ok(Made { completion, sends });
            }
            Ended::Failed(it) if is_news => return Err(paid::out_of_money(it.into())),
            // an earlier attempt failed of it
            Ended::Failed(_) => {}
        }
    }
    unreachable!("each attempt begins one at most, and fails of it")
}

/// Begins response number `ordinal`, unless it was begun before; whether it is new.
async fn begun(
    cx: &Context,
    account: &Account,
    chat: &Chat,
    intent: &Value,
    ordinal: u32,
) -> Result<(Receipt, bool), Outcome> {
    let wanted = Wanted {
        step: "generate",
        ordinal,
        op: "openai.response",
        rule: paid::rule(cx),
        intent: intent.clone(),
        keep: Value::Null,
        says: None,
        budget: BEGIN,
        price: paid::price_of_text(cx, chat),
    };
    cx.progress(10, format!("asking {}", chat.model));
    let mut is_new = false;
    let send = |permit: Permit| {
        is_new = true;
        let job = cx.job.id.to_string();
        async move {
            let deadline = BEGIN.mul_f32(0.95);
            let receipt = openai_responses::begin(&cx.http, account, chat, &job, deadline).await;
            let mut receipt = receipt?;
            receipt.detail["sends"] = json!(permit.lost + 1);
            Ok(receipt)
        }
    };
    let receipt = cx.effect(wanted, send).await.map_err(paid::out_of_money)?;
    paid::is_here(&receipt, "text")?;
    Ok((receipt, is_new))
}

async fn ended(cx: &Context, account: &Account, work: &Work<'_>) -> Result<Ended, Outcome> {
    let (http, prices) = (&cx.http, &cx.config.models);
    let ask = openai_responses::look(http, account, work.handle, prices, CALL);
    let stop = openai_responses::stop(http, account, work.handle, CALL);
    adopt::ended(cx, work, ask, Some(stop)).await
}
