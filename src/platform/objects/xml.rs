//! The XML that object stores answer in: a few names and texts are looked for, whatever else there is.

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;

/// An element: its name without a prefix, its own text, and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, without the name space's prefix.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The elements in it.
    pub children: Vec<Element>,
}

/// Deeper documents are none of theirs.
const DEPTH_MAX: usize = 16;

impl Element {
    /// Reads a document; nothing when it is no XML, or too deep.
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().ok()? {
                Event::Start(it) if open.len() < DEPTH_MAX => open.push(Self {
                    name: it.local_name().as_ref().to_owned(),
                    ..Self::default()
                }),
                Event::Start(_) => return None,
                Event::Empty(it) => open.last_mut()?.children.push(Self {
                    name: it.local_name().as_ref().to_owned(),
                    ..Self::default()
                }),
                Event::End(_) => {
                    let mut done = open.pop()?;
                    done.text = done.text.trim().to_owned();
                    open.last_mut()?.children.push(done);
                }
                Event::Text(it) => open.last_mut()?.text.push_str(&it),
                Event::CData(it) => open.last_mut()?.text.push_str(&it),
                Event::GeneralRef(it) => {
                    let reference = format!("&{};", &*it);
                    open.last_mut()?.text.push_str(&unescape(&reference).ok()?);
                }
                Event::Eof if open.len() == 1 => return open.pop()?.children.pop(),
                Event::Eof => return None,
                _ => {}
            }
        }
    }

    /// The text of its first child of this name, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.children.iter().find(|it| it.name == name)?;
        Some(found.text.as_str()).filter(|it| !it.is_empty())
    }

    /// Its children of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |it| it.name == name)
    }
}

/// A text between tags.
pub fn escaped(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_texts_are_found() {
        let body = br#"<?xml version="1.0" encoding="UTF-8"?>
            <s:Parts xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/">
              <ETag>&quot;a&#x26;b&quot;</ETag><Part><PartNumber>1</PartNumber></Part><Next/>
              <Part><PartNumber>2</PartNumber></Part></s:Parts>"#;
        let it = Element::read(body).unwrap();
        assert_eq!(it.name, "Parts");
        assert_eq!(it.get("ETag"), Some("\"a&b\""));
        assert_eq!(it.get("Next"), None);
        let numbers: Vec<_> = it.all("Part").map(|it| it.get("PartNumber")).collect();
        assert_eq!(numbers, [Some("1"), Some("2")]);
    }

    #[test]
    fn what_is_no_document_is_nothing() {
        let deep = "<a>".repeat(100);
        for body in ["", "<a>", "<a></b>", "plain", "{}", &deep] {
            assert_eq!(Element::read(body.as_bytes()), None, "{body}");
        }
        assert_eq!(escaped("a<\"b\">&"), "a&lt;&quot;b&quot;&gt;&amp;");
    }

    proptest! {
        #[test]
        fn nothing_panics(body: Vec<u8>, text in "(<[a-b]>|</[a-b]>|&#?[a-z0-9]*;|[^<]){0,30}") {
            Element::read(&body);
            Element::read(text.as_bytes());
        }
    }
}
