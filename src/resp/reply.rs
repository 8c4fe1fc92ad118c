//! Answers, written as each of the two protocols wants them.

/// Which RESP a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The one that every client knows.
    #[default]
    Two,
    /// With maps and a null of its own.
    Three,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A word of the protocol's own: `OK`.
    Simple(&'static str),
    /// What was wrong: a word in capitals for programs, then words for people.
    Error(String),
    /// A number.
    Number(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing.
    Null,
    /// Several.
    Array(Vec<Reply>),
    /// Pairs; in RESP2 one after the other.
    Map(Vec<(&'static str, Reply)>),
}

/// The longest text of an error, in bytes: all that is wrong with an envelope may be long.
const ERROR_MAX: usize = 2_048;

impl Reply {
    /// Bytes of a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into_bytes())
    }

    /// Writes it.
    pub fn write(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, sign: u8, number: usize| {
            out.push(sign);
            out.extend_from_slice(number.to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        match self {
            Self::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Self::Error(text) => {
                out.push(b'-');
                out.extend_from_slice(one_line(text).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Number(it) => out.extend_from_slice(format!(":{it}\r\n").as_bytes()),
            Self::Bulk(bytes) => {
                head(out, b'$', bytes.len());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Null if protocol == Protocol::Three => out.extend_from_slice(b"_\r\n"),
            Self::Null => out.extend_from_slice(b"$-1\r\n"),
            Self::Array(all) => {
                head(out, b'*', all.len());
                all.iter().for_each(|it| it.write(protocol, out));
            }
            Self::Map(pairs) => {
                match protocol {
                    Protocol::Three => head(out, b'%', pairs.len()),
                    Protocol::Two => head(out, b'*', pairs.len() * 2),
                }
                for (name, value) in pairs {
                    Self::text(*name).write(protocol, out);
                    value.write(protocol, out);
                }
            }
        }
    }
}

/// An error is one line.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(plain).collect();
    if ERROR_MAX < line.len() {
        line.truncate(line.floor_char_boundary(ERROR_MAX));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_written_as_each_protocol_wants_them() {
        let reply = Reply::Array(vec![
            Reply::Simple("OK"),
            Reply::Error("ERR a\r\nb".to_owned()),
            Reply::Number(-1),
            Reply::text("é"),
            Reply::Null,
            Reply::Map(vec![("a", Reply::Number(1))]),
        ]);
        let written = |protocol| {
            let mut out = Vec::new();
            reply.write(protocol, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(Protocol::Two),
            "*6\r\n+OK\r\n-ERR a  b\r\n:-1\r\n$2\r\né\r\n$-1\r\n*2\r\n$1\r\na\r\n:1\r\n"
        );
        assert_eq!(
            written(Protocol::Three),
            "*6\r\n+OK\r\n-ERR a  b\r\n:-1\r\n$2\r\né\r\n_\r\n%1\r\n$1\r\na\r\n:1\r\n"
        );
        let mut out = Vec::new();
        Reply::Error("é".repeat(5_000)).write(Protocol::Two, &mut out);
        assert!(out.len() < ERROR_MAX + 10);
    }
}
