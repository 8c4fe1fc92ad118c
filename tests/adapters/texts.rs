//! OpenAI: what is written, and what it cost.

use std::collections::BTreeMap;

use presswork::config::Model;
use presswork::platform::openai::{self, Chat, Completion};
use serde_json::{Value, json};

use crate::{Platform, SLOW, World, chat};

#[tokio::test]
async fn a_text_and_json_by_a_schema_are_paid_for_and_told() {
    let world = World::new().await;
    let account = world.account(Platform::OpenAi, "writer");
    let price = Model {
        input_micros_per_mtok: 1_000_000,
        output_micros_per_mtok: 1_000_000,
        ..Model::default()
    };
    let prices = BTreeMap::from([("gpt-4o-mini".to_owned(), price)]);
    let complete = async |chat: &Chat| -> Completion {
        let receipt = openai::complete(&world.http, &account, chat, &prices, SLOW)
            .await
            .unwrap();
        assert!(receipt.remote_id.is_some());
        serde_json::from_value(receipt.detail).unwrap()
    };
    let plain = complete(&chat("a fox")).await;
    assert!(plain.text.is_some_and(|it| !it.is_empty()));
    assert_eq!(
        plain.cost_micros,
        Some(plain.input_tokens + plain.output_tokens)
    );
    let schema = json!({
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"],
        "additionalProperties": false,
    });
    let asked = Chat {
        schema: Some(("answer".to_owned(), schema)),
        ..chat("a fox")
    };
    let structured = complete(&asked).await;
    let answer: Value = serde_json::from_str(&structured.text.unwrap()).unwrap();
    assert!(answer["title"].is_string(), "{answer}");

    let unknown = Chat {
        model: "no-such-model".to_owned(),
        ..chat("a fox")
    };
    let e = openai::complete(&world.http, &account, &unknown, &prices, SLOW)
        .await
        .unwrap_err();
    assert_eq!(e.refusal(), Some("model_not_found"), "{e}");
}
