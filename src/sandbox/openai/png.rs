//! Small, real PNGs: stripes of two colours that depend on the words they are drawn from.

use super::super::text::fingerprint;

/// Bytes of a stored block of deflate at most (RFC 1951, 3.2.4).
const BLOCK: usize = 0xffff;

/// A PNG of this size, one bit a pixel: the same for the same words.
pub(super) fn png(width: u32, height: u32, words: &[&str]) -> Vec<u8> {
    let seed = fingerprint(words).to_be_bytes();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // one bit a pixel, by a palette; the usual compression and filters, not interlaced
    head.extend([1, 3, 0, 0, 0]);
    chunk(&mut file, b"IHDR", &head);
    let [r, g, b, ..] = seed;
    chunk(&mut file, b"PLTE", &[r, g, b, 0xff - r, 0xff - g, 0xff - b]);
    chunk(&mut file, b"IDAT", &zlib(&lines(width, height, seed)));
    chunk(&mut file, b"IEND", &[]);
    file
}

/// The scan lines: eight bands, each with a pattern of its own.
fn lines(width: u32, height: u32, seed: [u8; 8]) -> Vec<u8> {
    let bytes = width.div_ceil(8) as usize;
    let mut lines = Vec::with_capacity((bytes + 1) * height as usize);
    for y in 0..height {
        let band = u64::from(y) * 8 / u64::from(height.max(1));
        // each line says how it is filtered: not at all
        lines.push(0);
        lines.resize(lines.len() + bytes, seed[band as usize & 7]);
    }
    lines
}

/// A zlib stream of stored blocks (RFC 1950).
fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = bytes.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let size = block.len() as u16;
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(size.to_le_bytes());
        stream.extend((!size).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(bytes).to_be_bytes());
    stream
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    for byte in bytes {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    b << 16 | a
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    let body = [&name[..], data].concat();
    file.extend((data.len() as u32).to_be_bytes());
    file.extend(&body);
    file.extend(crc32(&body).to_be_bytes());
}

/// CRC-32 as PNG has it (ISO 3309), a byte at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8;
    !bytes.iter().fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut crc, mut bit) = (at as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 {
                0xedb8_8320 ^ crc >> 1
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        // as in every PNG
        let mut end = vec![];
        chunk(&mut end, b"IEND", &[]);
        assert_eq!(end, b"\0\0\0\0IEND\xae\x42\x60\x82");
    }

    #[test]
    fn a_picture_depends_on_its_words_only() {
        let picture = png(1024, 512, &["a fox"]);
        assert_eq!(picture, png(1024, 512, &["a fox"]));
        assert_ne!(picture, png(1024, 512, &["a bear"]));
        assert_eq!(picture[16..24], [0, 0, 4, 0, 0, 0, 2, 0]);
        assert!(picture.len() < 1024 * 512 / 8 + 1024);
    }
}
