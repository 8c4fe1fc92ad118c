//! Request bodies of the Rails kind: JSON, url-encoded or multipart, read into one JSON object plus a file.

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart},
    http,
};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{exchange::Request, text::form_object};

/// Fields of one multipart body; more is no form of these platforms.
const MAX_FIELDS: usize = 1000;

/// An uploaded file.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) field: String,
    pub(super) mime: String,
    pub(super) bytes: Bytes,
}

/// A body that was read.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) fields: Map<String, Value>,
    pub(super) files: Vec<Upload>,
}

/// Reads a body by its content type.
///
/// # Errors
/// A sentence about what can't be read.
pub(super) async fn read(request: &Request) -> Result<Form, String> {
    match request.content_type().as_str() {
        "application/json" => match serde_json::from_slice(&request.body) {
            Ok(Value::Object(fields)) => Ok(Form {
                fields,
                files: Vec::new(),
            }),
            Ok(_) => Err("the body must be a JSON object".into()),
            Err(error) => Err(format!("the body is no JSON: {error}")),
        },
        "application/x-www-form-urlencoded" => {
            let pairs = url::form_urlencoded::parse(&request.body).into_owned();
            Ok(Form {
                fields: form_object(pairs)?,
                files: Vec::new(),
            })
        }
        "multipart/form-data" => multipart(request).await,
        "" if request.body.is_empty() => Ok(Form::default()),
        other => Err(format!(
            "the content type {other:?} is neither JSON nor a form"
        )),
    }
}

async fn multipart(request: &Request) -> Result<Form, String> {
    let mut http = http::Request::new(Body::from(request.body.clone()));
    *http.headers_mut() = request.headers.clone();
    // The body is in memory already; axum's own bound is for bodies it reads from a peer.
    DefaultBodyLimit::disable().apply(&mut http);
    let mut parts = Multipart::from_request(http, &())
        .await
        .map_err(|error| error.body_text())?;
    let (mut pairs, mut files) = (Vec::new(), Vec::new());
    while let Some(part) = parts
        .next_field()
        .await
        .map_err(|error| error.body_text())?
    {
        if pairs.len() + files.len() >= MAX_FIELDS {
            return Err(format!("a form has at most {MAX_FIELDS} fields"));
        }
        let name = part.name().unwrap_or_default().to_owned();
        let file = part.file_name().is_some();
        let mime = part.content_type().unwrap_or_default().to_owned();
        let bytes = part.bytes().await.map_err(|error| error.body_text())?;
        if file {
            files.push(Upload {
                field: name,
                mime,
                bytes,
            });
        } else {
            let text = String::from_utf8(bytes.to_vec())
                .map_err(|_| format!("the field {name} is no UTF-8"))?;
            pairs.push((name, text));
        }
    }
    Ok(Form {
        fields: form_object(pairs)?,
        files,
    })
}
