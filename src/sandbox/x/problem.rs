//! Errors as X words them: `application/problem+json`.

use serde_json::{Value, json};

use super::super::exchange::Answer;

/// The prefix of X's own problem types.
const TYPES: &str = "https://api.x.com/2/problems/";

fn answer(status: u16, body: &Value) -> Answer {
    Answer {
        mime: "application/problem+json",
        ..Answer::json(status, body)
    }
}

/// A problem without a type of its own.
pub(super) fn plain(status: u16, title: &str, detail: &str) -> Answer {
    answer(
        status,
        &json!({"title": title, "detail": detail, "type": "about:blank", "status": status}),
    )
}

/// A problem of a type of X's.
pub(super) fn typed(status: u16, name: &str, title: &str, detail: &str) -> Answer {
    let kind = format!("{TYPES}{name}");
    answer(
        status,
        &json!({"title": title, "detail": detail, "type": kind, "status": status}),
    )
}

/// A request that can't be understood.
pub(super) fn invalid(detail: &str) -> Answer {
    let kind = format!("{TYPES}invalid-request");
    answer(
        400,
        &json!({
            "errors": [{"message": detail}],
            "title": "Invalid Request",
            "detail": format!("One or more parameters to your request was invalid. {detail}"),
            "type": kind,
            "status": 400,
        }),
    )
}

/// There is no such thing.
pub(super) fn missing(resource: &str, parameter: &str, value: &str) -> Answer {
    answer(
        404,
        &json!({
            "title": "Not Found Error",
            "detail": format!("Could not find {resource} with {parameter}: [{value}]."),
            "type": format!("{TYPES}resource-not-found"),
            "resource_type": resource,
            "resource_id": value,
            "parameter": parameter,
            "value": value,
            "status": 404,
        }),
    )
}

/// The refusal of a text that the account has just published.
pub(super) fn duplicate() -> Answer {
    plain(
        403,
        "Forbidden",
        "You are not allowed to create a Tweet with duplicate content.",
    )
}

/// The usual problem of a status.
pub(super) fn usual(status: u16, message: Option<&str>) -> Answer {
    let say = |title: &str, usual: &str| plain(status, title, message.unwrap_or(usual));
    match status {
        200 => Answer::json(
            200,
            &json!({"errors": [{
                "title": "Internal Error", "type": format!("{TYPES}internal-error"),
                "detail": message.unwrap_or("Something is technically wrong."),
            }]}),
        ),
        400 => invalid(message.unwrap_or("Refused by the sandbox on request.")),
        401 => say("Unauthorized", "Unauthorized"),
        402 => typed(
            402,
            "usage-capped",
            "Payment Required",
            message.unwrap_or("Your account has no credits left."),
        ),
        403 => say("Forbidden", "You are not permitted to perform this action."),
        404 => say("Not Found", "Not Found"),
        413 => say("Payload Too Large", "The request body is too large."),
        429 => say("Too Many Requests", "Too Many Requests"),
        503 => say("Service Unavailable", "Service Unavailable"),
        504 => say("Gateway Timeout", "Gateway Timeout"),
        405..=499 => say("Request Refused", "Refused by the sandbox on request."),
        _ => typed(
            status,
            "internal-error",
            "Internal Error",
            message.unwrap_or("Something is technically wrong."),
        ),
    }
}
