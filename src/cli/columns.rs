//! The columns of a CSV file: each is a field of the kind's payload, or a member of the envelope, and its
//! cells are read as the kind's schema says.

use serde_json::{Map, Value};

use crate::job::envelope::MEMBERS;
use crate::json::{did_you_mean, nearest};

/// Columns of a file of rejects, which is read again when it is mended.
pub const REJECT_COLUMNS: [&str; 2] = ["reject_line", "reject_reason"];
/// A list's place beyond this is a mistake, not a list.
const PLACE_MAX: usize = 999;

/// What a schema lets a field be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Types {
    text: bool,
    integer: bool,
    number: bool,
    boolean: bool,
    structure: bool,
}

/// Where a column's cells go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Into the payload: members' names and places of lists, from the top.
    Payload(Vec<String>, Types),
    /// To a member of the envelope.
    Member(&'static str, Types),
    /// To a label.
    Label(String),
    /// Nowhere: it is for people, or only the key.
    Nowhere,
}

/// The head of a CSV file, understood.
#[derive(Clone, Debug)]
pub struct Columns {
    names: Vec<String>,
    places: Vec<Place>,
    key: Option<usize>,
}

const TEXT: Types = Types {
    text: true,
    integer: false,
    number: false,
    boolean: false,
    structure: false,
};
const INTEGER: Types = Types {
    integer: true,
    text: false,
    ..TEXT
};
const BOOLEAN: Types = Types {
    boolean: true,
    text: false,
    ..TEXT
};

impl Columns {
    /// Understands the names of the columns, by the schema of the payload.
    ///
    /// # Errors
    /// Every name that is none, each with what may have been meant.
    pub fn new(head: &[String], key: Option<&str>, schema: &Value) -> Result<Self, Vec<String>> {
        let names: Vec<String> = head.iter().map(|it| it.trim().to_owned()).collect();
        let mut wrong = Vec::new();
        let mut places = Vec::new();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                wrong.push(format!("the column `{name}` is there twice; keep one"));
            }
            match place(name, schema) {
                Ok(it) => places.push(it),
                Err(_) if key == Some(name) => places.push(Place::Nowhere),
                Err(message) => {
                    places.push(Place::Nowhere);
                    wrong.push(message);
                }
            }
        }
        let at = key.map(|key| names.iter().position(|it| it == key).ok_or(key));
        let key = match at {
            Some(Err(key)) => {
                let near = did_you_mean(key, names.iter().map(String::as_str));
                wrong.push(format!("--key-column: there is no column `{key}`{near}"));
                None
            }
            Some(Ok(at)) => Some(at),
            None => None,
        };
        match wrong.is_empty() {
            true => Ok(Self { names, places, key }),
            false => Err(wrong),
        }
    }

    /// The envelope that a row describes, without its kind.
    ///
    /// # Errors
    /// What can't be read, by its column.
    pub fn envelope(&self, cells: &[String]) -> Result<Map<String, Value>, String> {
        if cells.len() != self.names.len() {
            let (has, head) = (cells.len(), self.names.len());
            return Err(format!(
                "has {has} cells, and the head names {head} columns: a cell with a comma, a line break or a quote in it stands in double quotes, and a quote in it is doubled"
            ));
        }
        let (mut envelope, mut labels) = (Map::new(), Map::new());
        let mut payload = Value::Object(Map::new());
        for ((cell, place), name) in cells.iter().zip(&self.places).zip(&self.names) {
            if cell.is_empty() {
                continue;
            }
            let said = |it: String| format!("column `{name}`: {it}");
            match place {
                Place::Nowhere => {}
                Place::Label(label) => drop(labels.insert(label.clone(), cell.as_str().into())),
                Place::Member(member, types) => {
                    let value = read(cell, *types).map_err(said)?;
                    envelope.insert((*member).to_owned(), value);
                }
                Place::Payload(path, types) => {
                    let value = read(cell, *types).map_err(said)?;
                    put(&mut payload, path, value).map_err(said)?;
                }
            }
        }
        if let Some(at) = self.key {
            if cells[at].is_empty() {
                return Err(format!("column `{}` holds no key", self.names[at]));
            }
            envelope.insert("key".to_owned(), cells[at].as_str().into());
        }
        if !labels.is_empty() {
            envelope.insert("labels".to_owned(), labels.into());
        }
        close(&mut payload);
        envelope.insert("payload".to_owned(), payload);
        Ok(envelope)
    }
}

fn place(name: &str, schema: &Value) -> Result<Place, String> {
    if REJECT_COLUMNS.contains(&name) {
        return Ok(Place::Nowhere);
    }
    if let Some(label) = name.strip_prefix("labels.").filter(|it| !it.is_empty()) {
        return Ok(Place::Label(label.to_owned()));
    }
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    let (path, said) = match path.split_first() {
        Some((first, rest)) if first == "payload" && !rest.is_empty() => (rest.to_vec(), true),
        _ => (path, false),
    };
    let mut node = Some(schema);
    for step in &path {
        node = node.and_then(|it| child(schema, it, step));
    }
    if let Some(node) = node {
        return Ok(Place::Payload(path, types(schema, node, 0)));
    }
    let options = MEMBERS
        .iter()
        .filter(|it| !["v", "kind", "payload", "labels", "reply_to"].contains(it));
    let options: Vec<&'static str> = options.copied().collect();
    let member = options.iter().copied().find(|it| *it == name && !said);
    match member {
        Some(it @ ("attempts_max" | "timeout_s")) => Ok(Place::Member(it, INTEGER)),
        Some(it @ "again") => Ok(Place::Member(it, BOOLEAN)),
        Some(it) => Ok(Place::Member(it, TEXT)),
        None => Err(unknown(name, schema, &options)),
    }
}

fn unknown(name: &str, schema: &Value, options: &[&'static str]) -> String {
    let fields = schema.get("properties").and_then(Value::as_object);
    let fields: Vec<&str> = fields
        .into_iter()
        .flatten()
        .map(|it| it.0.as_str())
        .collect();
    let all: Vec<&str> = fields.iter().chain(options).copied().collect();
    let near = match nearest(name, all) {
        Some(it) => format!("; did you mean `{it}`?"),
        None => format!(
            "; there are {}, the envelope's own members, and labels.NAME",
            fields.join(", ")
        ),
    };
    format!("the column `{name}` is no field of the payload and no member of the envelope{near}")
}

/// The schema of a member, or of a list's items.
fn child<'a>(root: &'a Value, node: &'a Value, step: &str) -> Option<&'a Value> {
    let node = resolve(root, node);
    let direct = node.get("properties").and_then(|it| it.get(step));
    let item = || {
        let place = step.parse::<usize>().ok().filter(|it| *it <= PLACE_MAX);
        place.and(node.get("items"))
    };
    let other = || node.get("additionalProperties").filter(|it| it.is_object());
    let within = || alternatives(node).find_map(|it| child(root, it, step));
    direct.or_else(item).or_else(other).or_else(within)
}

fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let named = node.get("$ref").and_then(Value::as_str);
    let pointer = named.and_then(|it| it.strip_prefix('#'));
    pointer.and_then(|it| root.pointer(it)).unwrap_or(node)
}

fn alternatives(node: &Value) -> impl Iterator<Item = &Value> {
    let all = ["anyOf", "oneOf", "allOf"].into_iter();
    let all = all.filter_map(|it| node.get(it).and_then(Value::as_array));
    all.flatten()
}

/// What a field may be; a schema that says nothing lets it be anything.
fn types(root: &Value, node: &Value, depth: usize) -> Types {
    let node = resolve(root, node);
    let mut found = Types::default();
    let mut note = |name: &str| match name {
        "string" => found.text = true,
        "integer" => found.integer = true,
        "number" => found.number = true,
        "boolean" => found.boolean = true,
        "array" | "object" => found.structure = true,
        _ => {}
    };
    match node.get("type") {
        Some(Value::String(it)) => note(it),
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).for_each(note),
        _ => {
            let told = node
                .get("enum")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for value in told.chain(node.get("const")) {
                note(match value {
                    Value::String(_) => "string",
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "number",
                    _ => "object",
                });
            }
        }
    }
    // schemas that name themselves have an end here
    if depth < 8 {
        for it in alternatives(node).map(|it| types(root, it, depth + 1)) {
            found.text |= it.text;
            found.integer |= it.integer;
            found.number |= it.number;
            found.boolean |= it.boolean;
            found.structure |= it.structure;
        }
    }
    if found == Types::default() {
        found.text = true;
        found.structure = true;
    }
    found
}

/// A cell as the first type that it fits, the strictest first; a text takes whatever is left.
fn read(cell: &str, types: Types) -> Result<Value, String> {
    let plain = cell.trim();
    if types.structure && plain.starts_with(['{', '[']) {
        match serde_json::from_str(plain) {
            Ok(value) => return Ok(value),
            Err(e) if !types.text => return Err(format!("is no JSON: {e}")),
            Err(_) => {}
        }
    }
    if types.boolean
        && let Ok(value) = plain.to_ascii_lowercase().parse::<bool>()
    {
        return Ok(value.into());
    }
    if types.integer
        && let Ok(value) = plain.parse::<i64>()
    {
        return Ok(value.into());
    }
    // numbers keep their digits: JSON's own grammar decides what one is
    if types.number
        && let Ok(Value::Number(value)) = serde_json::from_str(plain)
    {
        return Ok(value.into());
    }
    if types.text {
        return Ok(cell.into());
    }
    let wanted = [
        (types.boolean, "true or false"),
        (types.integer, "a whole number"),
        (types.number, "a number"),
        (types.structure, "JSON such as [1, 2] or {\"a\": 1}"),
    ];
    let wanted: Vec<&str> = wanted.iter().filter(|it| it.0).map(|it| it.1).collect();
    Err(format!("`{cell}` must be {}", wanted.join(" or ")))
}

/// Puts a value at a path; what is between is made, lists up to the place.
fn put(into: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else {
        if into.is_null() || into.as_object().is_some_and(Map::is_empty) {
            *into = value;
            return Ok(());
        }
        return Err("another column has written there already".to_owned());
    };
    let place = step.parse::<usize>().ok().filter(|_| !into.is_object());
    if into.is_null() {
        *into = place.map_or_else(|| Value::Object(Map::new()), |_| Value::Array(Vec::new()));
    }
    match (into, place) {
        (Value::Array(list), Some(at)) => {
            if list.len() <= at {
                list.resize(at + 1, Value::Null);
            }
            put(&mut list[at], rest, value)
        }
        (Value::Object(members), _) => {
            let member = members.entry(step.clone()).or_insert(Value::Null);
            put(member, rest, value)
        }
        _ => Err("another column has written there already".to_owned()),
    }
}

/// Takes out the places of lists that no cell filled: rows may have fewer pictures than the head.
fn close(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.retain(|it| !it.is_null());
            list.iter_mut().for_each(close);
        }
        Value::Object(members) => members.values_mut().for_each(close),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "text": {"type": "string"}, "key": {"type": "string"},
            "n": {"type": ["integer", "null"]}, "ratio": {"type": "number"},
            "sure": {"type": "boolean"}, "tags": {"type": "array", "items": {"type": "string"}},
            "choice": {"enum": ["a", "b"]}, "free": true,
            "images": {"type": "array", "items": {"$ref": "#/$defs/Image"}},
            "source": {"anyOf": [{"$ref": "#/$defs/Image"}, {"type": "null"}]}},
            "$defs": {"Image": {"type": "object", "properties": {
                "url": {"type": "string"}, "width": {"type": "integer"}}}}})
    }

    fn row(head: &str, key: Option<&str>, cells: &[&str]) -> Result<Value, String> {
        let head: Vec<String> = head.split(',').map(str::to_owned).collect();
        let columns = Columns::new(&head, key, &schema()).map_err(|it| it.join("\n"))?;
        let cells: Vec<String> = cells.iter().map(|it| (*it).to_owned()).collect();
        columns.envelope(&cells).map(Value::Object)
    }

    #[test]
    fn cells_are_what_the_schema_says() {
        let read = row(
            "text,n,ratio,sure,tags,choice,free",
            None,
            &["007", "7", "0.50", "TRUE", "[\"a\"]", "b", "x"],
        );
        let wanted = json!({"payload": {"text": "007", "n": 7, "ratio": 0.50, "sure": true,
                                         "tags": ["a"], "choice": "b", "free": "x"}});
        assert_eq!(read.unwrap(), wanted);
        for (head, cell, told) in [
            ("n", "seven", "column `n`: `seven` must be a whole number"),
            ("sure", "yes", "must be true or false"),
            ("ratio", "1,5", "must be a number"),
            ("tags", "a", "must be JSON"),
            ("tags", "[a", "is no JSON"),
        ] {
            let error = row(head, None, &[cell]).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn names_with_dots_go_deep_and_empty_cells_are_left_out() {
        let head = "images.0.url,images.0.width,images.1.url,source.url,text";
        let read = row(head, None, &["a", "3", "", "s", ""]).unwrap();
        let wanted = json!({"images": [{"url": "a", "width": 3}], "source": {"url": "s"}});
        assert_eq!(read, json!({"payload": wanted}));
        let read = row(head, None, &["", "", "b", "", ""]).unwrap();
        assert_eq!(read, json!({"payload": {"images": [{"url": "b"}]}}));
        let error = row("images,images.0.url", None, &["[]", "a"]);
        assert_eq!(
            error.unwrap(),
            json!({"payload": {"images": [{"url": "a"}]}})
        );
        let error = row("images,images.0.url", None, &["[{\"url\": \"x\"}]", "a"]);
        assert!(error.unwrap_err().contains("written there already"));
    }

    #[test]
    fn the_payloads_names_come_first_and_the_envelope_has_the_rest() {
        let head = "key,account,attempts_max,labels.shop,reject_line,order,again";
        let cells = ["of the payload", "alice", "3", "7", "12", "o-1", "true"];
        let read = row(head, Some("order"), &cells).unwrap();
        let wanted = json!({"account": "alice", "attempts_max": 3, "again": true, "key": "o-1",
            "labels": {"shop": "7"}, "payload": {"key": "of the payload"}});
        assert_eq!(read, wanted);
        let read = row("payload.text,key", Some("key"), &["t", "k"]).unwrap();
        assert_eq!(
            read,
            json!({"key": "k", "payload": {"text": "t", "key": "k"}})
        );
    }

    #[test]
    fn a_name_that_is_none_is_told_with_what_was_meant() {
        let error = row("txet,acount,zzzz", Some("order"), &[]).unwrap_err();
        for told in [
            "did you mean `text`?",
            "did you mean `account`?",
            "`zzzz` is no field",
            "--key-column: there is no column `order`",
        ] {
            assert!(error.contains(told), "{error}");
        }
        assert!(row("text,text", None, &[]).unwrap_err().contains("twice"));
        assert!(
            row("text", None, &["a", "b"])
                .unwrap_err()
                .contains("has 2 cells")
        );
        let error = row("order,text", Some("order"), &["", "b"]).unwrap_err();
        assert!(error.contains("holds no key"), "{error}");
    }
}
