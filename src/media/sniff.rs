//! What a file is, by its first bytes, and how many pixels it says to have: read from its head, with
//! nothing decoded.
//!
//! Own code and no crate: the formats that platforms take, each with a dozen lines that a property
//! test feeds with anything.

use std::io::{self, Read, Seek, SeekFrom};

use crate::reference::Pixels;

/// So many first bytes tell the type.
pub const HEAD: usize = 64;
/// Segments of a JPEG, or boxes of an AVIF, that are walked at most.
const PARTS_MAX: usize = 1_000;

/// The media type that the first bytes tell, where they tell one; [`HEAD`] of them suffice.
pub fn mime(head: &[u8]) -> Option<&'static str> {
    let at = |from: usize, what: &[u8]| head.get(from..from + what.len()) == Some(what);
    Some(match head {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xFF, 0xD8, 0xFF, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', ..] if at(8, b"WEBP") => "image/webp",
        [b'R', b'I', b'F', b'F', ..] if at(8, b"WAVE") => "audio/wav",
        _ if at(4, b"ftyp") => brand(head)?,
        [0x1A, 0x45, 0xDF, 0xA3, ..] => match head.windows(4).any(|it| it == b"webm") {
            true => "video/webm",
            false => "video/x-matroska",
        },
        [b'I', b'D', b'3', ..] | [0xFF, 0xFB | 0xF3 | 0xF2, ..] => "audio/mpeg",
        [b'O', b'g', b'g', b'S', ..] => "application/ogg",
        [b'f', b'L', b'a', b'C', ..] => "audio/flac",
        [b'%', b'P', b'D', b'F', b'-', ..] => "application/pdf",
        _ => return None,
    })
}

/// The family of ISO 14496-12: pictures first, since a film's brand may stand among theirs.
fn brand(head: &[u8]) -> Option<&'static str> {
    let size = u32::from_be_bytes(*head.first_chunk()?);
    let end = usize::try_from(size).unwrap_or(HEAD).min(head.len());
    let (brands, _) = head.get(8..end)?.as_chunks::<4>();
    let any = |of: &[&[u8; 4]]| brands.iter().any(|it| of.contains(&it));
    let first = brands.first()?;
    Some(if any(&[b"avif", b"avis"]) {
        "image/avif"
    } else if any(&[b"heic", b"heix", b"hevc"]) {
        "image/heic"
    } else if any(&[b"mif1", b"msf1"]) {
        "image/heif"
    } else if first == b"qt  " {
        "video/quicktime"
    } else if first.starts_with(b"M4A") {
        "audio/mp4"
    } else {
        "video/mp4"
    })
}

/// The pixels of a picture of this type; `None` when its head doesn't tell them, or tells nonsense.
/// Reads some hundred bytes.
///
/// # Errors
/// When it can't be read; a file that ends too early is no error.
pub fn pixels(mime: &str, file: &mut (impl Read + Seek)) -> io::Result<Option<Pixels>> {
    let found = match mime {
        "image/png" => png(file),
        "image/gif" => gif(file),
        "image/jpeg" => jpeg(file),
        "image/webp" => webp(file),
        "image/avif" | "image/heic" | "image/heif" => boxes(file),
        _ => Ok(None),
    };
    let found = match found {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
        found => found?,
    };
    let some = |it: &(u32, u32)| 0 < it.0 && 0 < it.1;
    Ok(found
        .filter(some)
        .map(|(width, height)| Pixels { width, height }))
}

type Found = io::Result<Option<(u32, u32)>>;

fn take<const N: usize>(file: &mut (impl Read + Seek), at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn big(file: &mut (impl Read + Seek), at: u64) -> io::Result<u32> {
    take(file, at).map(u32::from_be_bytes)
}

fn png(file: &mut (impl Read + Seek)) -> Found {
    if take(file, 12)? != *b"IHDR" {
        return Ok(None);
    }
    Ok(Some((big(file, 16)?, big(file, 20)?)))
}

fn gif(file: &mut (impl Read + Seek)) -> Found {
    let [a, b, c, d] = take(file, 6)?;
    Ok(Some((
        u16::from_le_bytes([a, b]).into(),
        u16::from_le_bytes([c, d]).into(),
    )))
}

/// Walks the segments to the start of the frame (ITU T.81, B.1.1 and B.2.2).
fn jpeg(file: &mut (impl Read + Seek)) -> Found {
    let mut at = 2;
    for _ in 0..PARTS_MAX {
        let marker = u16::from_be_bytes(take(file, at)?);
        match marker {
            0xFFFF => at += 1,
            0xFFC0..=0xFFCF if !matches!(marker, 0xFFC4 | 0xFFC8 | 0xFFCC) => {
                let [a, b, c, d] = take(file, at + 5)?;
                let (height, width) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                return Ok(Some((width.into(), height.into())));
            }
            0xFF01..=0xFFFE => {
                let long = u16::from_be_bytes(take(file, at + 2)?);
                at += 2 + u64::from(long.max(2));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// RFC 9649: the simple lossy, the simple lossless and the extended form.
fn webp(file: &mut (impl Read + Seek)) -> Found {
    let form: [u8; 4] = take(file, 12)?;
    Ok(match &form {
        b"VP8 " => {
            let [code @ .., a, b, c, d] = take::<7>(file, 23)?;
            let side = |it: [u8; 2]| u32::from(u16::from_le_bytes(it) & 0x3FFF);
            (code == [0x9D, 0x01, 0x2A]).then_some((side([a, b]), side([c, d])))
        }
        b"VP8L" => {
            let [mark, a, b, c, d] = take(file, 20)?;
            let bits = u32::from_le_bytes([a, b, c, d]);
            (mark == 0x2F).then_some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        b"VP8X" => {
            let [a, b, c, d, e, f] = take(file, 24)?;
            let side = |a, b, c| u32::from_le_bytes([a, b, c, 0]) + 1;
            Some((side(a, b, c), side(d, e, f)))
        }
        _ => None,
    })
}

/// The largest `ispe` of `meta/iprp/ipco` (ISO 23008-12, 6.5.3): tiles and thumbnails have their own.
fn boxes(file: &mut (impl Read + Seek)) -> Found {
    let length = file.seek(SeekFrom::End(0))?;
    let (mut at, mut end) = (0, length);
    let mut found: Option<(u32, u32)> = None;
    for _ in 0..PARTS_MAX {
        if end < at + 8 {
            break;
        }
        let (size, name) = (big(file, at)?, take::<4>(file, at + 4)?);
        let (head, size) = match size {
            0 => (8, end - at),
            1 => (16, take(file, at + 8).map(u64::from_be_bytes)?),
            size => (8, size.into()),
        };
        if size < head || end - at < size {
            break;
        }
        match &name {
            // goes down, and not up again: nothing that counts comes after
            b"meta" => (at, end) = (at + head + 4, at + size),
            b"iprp" | b"ipco" => (at, end) = (at + head, at + size),
            b"ispe" => {
                let it = (big(file, at + head + 4)?, big(file, at + head + 8)?);
                let area = |it: (u32, u32)| u64::from(it.0) * u64::from(it.1);
                if found.is_none_or(|before| area(before) < area(it)) {
                    found = Some(it);
                }
                at += size;
            }
            _ => at += size,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn told(bytes: &[u8]) -> (Option<&'static str>, Option<(u32, u32)>) {
        let mime = mime(&bytes[..bytes.len().min(HEAD)]);
        let found = pixels(mime.unwrap_or(""), &mut Cursor::new(bytes)).unwrap();
        (mime, found.map(|it| (it.width, it.height)))
    }

    fn iso(name: &[u8; 4], inner: &[u8]) -> Vec<u8> {
        let size = u32::try_from(8 + inner.len()).unwrap();
        [&size.to_be_bytes()[..], name, inner].concat()
    }

    fn avif() -> Vec<u8> {
        let ispe = |width: u32, height: u32| {
            let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
            iso(b"ispe", &[&[0; 4][..], &sides].concat())
        };
        let inner = [ispe(64, 64), iso(b"pixi", &[0; 8]), ispe(640, 480)].concat();
        let meta = [
            &[0; 4][..],
            &iso(b"hdlr", &[0; 25]),
            &iso(b"iprp", &iso(b"ipco", &inner)),
        ]
        .concat();
        let brands = iso(b"ftyp", b"mif1\0\0\0\0miafavif");
        [brands, iso(b"free", &[1; 70]), iso(b"meta", &meta)].concat()
    }

    #[test]
    fn heads_tell_type_and_pixels() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\0\x80";
        assert_eq!(told(png), (Some("image/png"), Some((256, 128))));
        assert_eq!(
            told(b"GIF89a\x02\0\x03\0"),
            (Some("image/gif"), Some((2, 3)))
        );
        let jpeg = b"\xFF\xD8\xFF\xE0\0\x04\x01\x01\xFF\xC0\0\x0b\x08\0\x09\0\x05\x03";
        assert_eq!(told(jpeg), (Some("image/jpeg"), Some((5, 9))));
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x07\0\x08\x40";
        assert_eq!(told(lossy), (Some("image/webp"), Some((7, 8))));
        let lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x04\xc0\x01\0";
        assert_eq!(told(lossless), (Some("image/webp"), Some((5, 8))));
        let wide = b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0\xff\xff\0\x01\0\0";
        assert_eq!(told(wide), (Some("image/webp"), Some((65_536, 2))));
        assert_eq!(told(&avif()), (Some("image/avif"), Some((640, 480))));
    }

    #[test]
    fn types_without_pixels_are_told() {
        for (head, is) in [
            (&b"\0\0\0\x18ftypisom\0\0\0\0mp41mp42"[..], "video/mp4"),
            (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video/quicktime"),
            (b"\0\0\0\x14ftypM4A \0\0\0\0isom", "audio/mp4"),
            (b"\0\0\0\x14ftypmif1\0\0\0\0heic", "image/heic"),
            (
                b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01B\x82\x84webm",
                "video/webm",
            ),
            (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
            (b"ID3\x04", "audio/mpeg"),
            (b"%PDF-1.7", "application/pdf"),
        ] {
            assert_eq!(mime(head), Some(is));
        }
        assert_eq!(mime(b"<svg xmlns="), None);
        assert_eq!(mime(b""), None);
    }

    #[test]
    fn a_head_that_is_cut_tells_no_pixels() {
        let avif = avif();
        for cut in 0..avif.len() {
            told(&avif[..cut]);
        }
        assert_eq!(told(b"\x89PNG\r\n\x1a\n").1, None);
        assert_eq!(told(b"GIF89a\0\0\x03\0").1, None);
    }

    proptest! {
        #[test]
        fn no_head_panics(mut bytes: Vec<u8>, kind in 0usize..6) {
            let heads: [&[u8]; 6] = [
                &[0xFF, 0xD8, 0xFF], b"\x89PNG", b"GIF8", b"RIFF\0\0\0\0WEBPVP8 ", &avif()[..24],
                b"\0\0\0\x10ftypavif\0\0\0\0\0\0\0\x01meta",
            ];
            bytes.splice(0..0, heads[kind].iter().copied());
            told(&bytes);
        }
    }
}
