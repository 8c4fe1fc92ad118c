//! Requests, read as their bytes come over the wire.
//!
//! A parser of our own: `redis-protocol` 6.0.0, the codec crate, descends without a bound (4 KB of
//! `*1` end the process), holds whatever a length announces, begins anew with each read, and knows no
//! inline commands. A request is never more than a flat list of strings.

use bytes::{Buf, BytesMut};

/// How much a request may hold; beyond it is read and dropped, and told. Before a client has shown its
/// token it may send little.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The longest inline command, in bytes.
    pub inline: usize,
    /// The longest word, in bytes.
    pub word: usize,
    /// The most words.
    pub words: usize,
    /// The most bytes of all words.
    pub bytes: usize,
}

/// What is announced beyond this isn't even read over: whoever sent it doesn't speak RESP.
const WORD_ABSURD: usize = 512 << 20;
const WORDS_ABSURD: usize = 1 << 20;
/// The longest line that announces a length.
const LINE_MAX: usize = 32;
/// Places that are made before any word is there.
const AHEAD: usize = 16;

/// What was too much of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// The word at this place has so many bytes.
    Word(usize, usize),
    /// It has so many words.
    Words(usize),
    /// Its words have more bytes together than are taken.
    Bytes,
}

/// A request: a command and what it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its words; where something was too much, only the first two.
    pub words: Vec<Vec<u8>>,
    /// What was too much.
    pub excess: Option<Excess>,
    /// It came as a line, as a person types it.
    pub inline: bool,
    /// The bytes of its words.
    pub bytes: usize,
}

impl Request {
    fn exceeds(&mut self, excess: Excess) {
        self.excess.get_or_insert(excess);
        self.words.truncate(2);
        self.bytes = self.words.iter().map(Vec::len).sum();
    }
}

/// The bytes can't be read as RESP; nothing after them can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct Broken(pub &'static str);

/// Where in a request the reading stands.
#[derive(Debug, Default)]
enum Stage {
    /// Before a request.
    #[default]
    Start,
    /// Before the next word's length.
    Length,
    /// Within a word of this length.
    Word(usize),
    /// Over a word that isn't kept: so many bytes are left, with its line break.
    Over(usize),
}

/// Reads requests from bytes as they come. No byte is looked at twice, but for the beginning of a line
/// that isn't whole.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: BytesMut,
    stage: Stage,
    request: Request,
    /// The place of the next word, and how many there are.
    place: usize,
    count: usize,
}

impl Parser {
    /// Where bytes that come are put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The bytes that it holds of what isn't whole.
    pub fn held(&self) -> usize {
        self.buffer.len() + self.request.bytes
    }

    /// Whether a request has begun and isn't whole.
    pub fn is_midway(&self) -> bool {
        !self.buffer.is_empty() || !matches!(self.stage, Stage::Start)
    }

    /// The next request; `None` until more bytes are there.
    ///
    /// # Errors
    /// When they can't be read: then the connection is of no more use.
    pub fn next(&mut self, bounds: &Bounds) -> Result<Option<Request>, Broken> {
        loop {
            match self.stage {
                Stage::Start => match self.buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => {
                        let Some(count) = self.announced(WORDS_ABSURD)? else {
                            return Ok(None);
                        };
                        self.begin(count, bounds);
                    }
                    Some(_) => match self.line(bounds)? {
                        Some(words) if words.is_empty() => {}
                        Some(words) => return Ok(Some(inline(words))),
                        None => return Ok(None),
                    },
                },
                Stage::Length if self.place == self.count => {
                    self.stage = Stage::Start;
                    return Ok(Some(std::mem::take(&mut self.request)));
                }
                Stage::Length => {
                    match self.buffer.first() {
                        None => return Ok(None),
                        Some(b'$') => {}
                        Some(_) => return Err(Broken("expected '$' before a word's length")),
                    }
                    let Some(length) = self.announced(WORD_ABSURD)? else {
                        return Ok(None);
                    };
                    self.stage = self.next_word(length, bounds);
                }
                Stage::Word(length) => {
                    if self.buffer.len() < length + 2 {
                        return Ok(None);
                    }
                    let word = self.buffer.split_to(length).to_vec();
                    self.request.bytes += length;
                    self.request.words.push(word);
                    self.end_word()?;
                }
                Stage::Over(left) => {
                    let over = left.saturating_sub(2).min(self.buffer.len());
                    self.buffer.advance(over);
                    self.stage = Stage::Over(left - over);
                    if left - over != 2 || self.buffer.len() < 2 {
                        return Ok(None);
                    }
                    self.end_word()?;
                }
            }
        }
    }

    fn begin(&mut self, count: usize, bounds: &Bounds) {
        // none, or -1: as Redis does, it is passed over
        if count == 0 {
            return;
        }
        (self.place, self.count, self.stage) = (0, count, Stage::Length);
        self.request.words.reserve(count.min(AHEAD));
        if bounds.words < count {
            self.request.exceeds(Excess::Words(count));
        }
    }

    fn next_word(&mut self, length: usize, bounds: &Bounds) -> Stage {
        if bounds.word < length {
            self.request.exceeds(Excess::Word(self.place, length));
        } else if bounds.bytes < self.request.bytes + length {
            self.request.exceeds(Excess::Bytes);
        }
        let kept = length <= bounds.word && (self.request.excess.is_none() || self.place < 2);
        match kept {
            true => Stage::Word(length),
            false => Stage::Over(length + 2),
        }
    }

    fn end_word(&mut self) -> Result<(), Broken> {
        if !self.buffer.starts_with(b"\r\n") {
            return Err(Broken("expected a line break after a word"));
        }
        self.buffer.advance(2);
        self.place += 1;
        self.stage = Stage::Length;
        Ok(())
    }

    /// The length that a line announces; 0 for a negative one.
    fn announced(&mut self, most: usize) -> Result<Option<usize>, Broken> {
        let seen = &self.buffer[..self.buffer.len().min(LINE_MAX)];
        let Some(end) = seen.iter().position(|it| *it == b'\n') else {
            return match seen.len() {
                LINE_MAX => Err(Broken("a length has too many digits")),
                _ => Ok(None),
            };
        };
        let digits = seen[1..end].strip_suffix(b"\r").unwrap_or_default();
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|it| it.parse::<i64>().ok());
        let number = match number {
            // a missing list is passed over; a word that isn't there is no word
            Some(-1) if seen[0] == b'*' => 0,
            Some(it) => usize::try_from(it).map_err(|_| Broken("invalid length"))?,
            None => return Err(Broken("invalid length")),
        };
        if most < number {
            return Err(Broken("invalid length"));
        }
        self.buffer.advance(end + 1);
        Ok(Some(number))
    }

    /// The words of a line.
    fn line(&mut self, bounds: &Bounds) -> Result<Option<Vec<Vec<u8>>>, Broken> {
        let seen = &self.buffer[..self.buffer.len().min(bounds.inline)];
        let Some(end) = seen.iter().position(|it| *it == b'\n') else {
            return match seen.len() == bounds.inline {
                true => Err(Broken("too big inline request")),
                false => Ok(None),
            };
        };
        let line = self.buffer.split_to(end + 1);
        words(&line)
            .map(Some)
            .ok_or(Broken("unbalanced quotes in request"))
    }
}

fn inline(words: Vec<Vec<u8>>) -> Request {
    Request {
        bytes: words.iter().map(Vec::len).sum(),
        words,
        excess: None,
        inline: true,
    }
}

/// The words of a line, as redis-cli splits one: between spaces, or in quotes. `None` where a quote
/// doesn't end, or goes on after its end.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        let mut word = Vec::new();
        while let Some((first, after)) = rest.split_first() {
            rest = match first {
                b'"' | b'\'' => quoted(*first, after, &mut word)?,
                it if it.is_ascii_whitespace() => break,
                it => {
                    word.push(*it);
                    after
                }
            };
        }
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Some(words)
}

/// Reads to the end of a quote, after which a word ends; what follows.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match (quote, rest) {
            (_, [it, after @ ..]) if *it == quote => {
                let ends = after.first().is_none_or(u8::is_ascii_whitespace);
                return ends.then_some(after);
            }
            (b'"', [b'\\', b'x', high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |it: u8| char::from(it).to_digit(16).unwrap_or_default();
                word.push((digit(*high) * 16 + digit(*low)) as u8);
                after
            }
            (b'"', [b'\\', it, after @ ..]) => {
                word.push(match it {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    it => *it,
                });
                after
            }
            (b'\'', [b'\\', b'\'', after @ ..]) => {
                word.push(b'\'');
                after
            }
            (_, [it, after @ ..]) => {
                word.push(*it);
                after
            }
            (_, []) => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        inline: 64,
        word: 10,
        words: 4,
        bytes: 25,
    };

    fn read(bytes: &[u8]) -> Result<Vec<Request>, Broken> {
        let mut parser = Parser::default();
        let mut all = Vec::new();
        parser.buffer().extend_from_slice(bytes);
        while let Some(it) = parser.next(&BOUNDS)? {
            all.push(it);
        }
        Ok(all)
    }

    fn one(bytes: &[u8]) -> Request {
        let mut all = read(bytes).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn requests_are_the_same_however_their_bytes_come() {
        let bytes = b"*2\r\n$4\r\nECHO\r\n$3\r\n\r\n\0\r\n*0\r\n*-1\r\n\r\nPING \"a\\x41\\n\" 'b\\'c'\r\n*1\r\n$11\r\n01234567890\r\n*1\r\n$0\r\n\r\n";
        let whole = read(bytes).unwrap();
        assert_eq!(whole.len(), 4, "{whole:?}");
        assert_eq!(whole[0].words, [b"ECHO".to_vec(), b"\r\n\0".to_vec()]);
        assert_eq!(
            whole[1].words,
            [b"PING".to_vec(), b"aA\n".to_vec(), b"b'c".to_vec()]
        );
        assert!(whole[1].inline && !whole[0].inline);
        assert_eq!(whole[2].excess, Some(Excess::Word(0, 11)));
        let mut parser = Parser::default();
        let mut slowly = Vec::new();
        for byte in bytes {
            parser.buffer().extend_from_slice(&[*byte]);
            while let Some(it) = parser.next(&BOUNDS).unwrap() {
                slowly.push(it);
            }
        }
        assert_eq!(slowly, whole);
        assert!(!parser.is_midway());
        assert_eq!(parser.held(), 0);
    }

    #[test]
    fn what_is_too_much_is_read_over_and_told() {
        let long = one(b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$12\r\n012345678901\r\n");
        assert_eq!(long.excess, Some(Excess::Word(2, 12)));
        assert_eq!(long.words, [b"a".to_vec(), b"b".to_vec()]);
        let many = one(b"*5\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n");
        assert_eq!(many.excess, Some(Excess::Words(5)));
        let heavy =
            one(b"*4\r\n$9\r\n012345678\r\n$9\r\n012345678\r\n$9\r\n012345678\r\n$1\r\nx\r\n");
        assert_eq!((heavy.excess, heavy.words.len()), (Some(Excess::Bytes), 2));
        assert_eq!(heavy.bytes, 18);
    }

    #[test]
    fn what_is_no_resp_is_broken_and_nothing_is_made_of_its_numbers() {
        for bytes in [
            &b"*1\r\n+PING\r\n"[..],
            b"*1\r\n$-1\r\n",
            b"*x\r\n",
            b"*1048577\r\n",
            b"*1\r\n$536870913\r\n",
            b"*1\n$4\n",
            b"*1\r\n$4\r\nPINGxx",
            b"*99999999999999999999999999999999",
            b"PING \"a\r\n",
            b"PING 'a'b\r\n",
            &[b'x'; 65],
        ] {
            assert!(read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        let mut parser = Parser::default();
        parser
            .buffer()
            .extend_from_slice(b"*1048576\r\n$536870912\r\nab");
        assert_eq!(parser.next(&BOUNDS), Ok(None));
        assert!(parser.held() < 100 && parser.request.words.capacity() <= AHEAD);
        assert!(parser.is_midway());
    }
}
