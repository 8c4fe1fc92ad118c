//! The many spellings of addresses that aren't public.

use std::net::Ipv4Addr;

/// The forms of a number that the parsers of the world take for it.
fn numbers(n: u32) -> Vec<String> {
    vec![
        n.to_string(),
        format!("0{n:o}"),
        format!("0000{n:o}"),
        format!("0x{n:x}"),
        format!("0X{n:X}"),
        format!("0x00000000{n:x}"),
    ]
}

/// The spellings of an IPv4 address: one to four numbers, each in all forms; and with the digits of
/// other scripts, escapes and dots.
fn spellings(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets().map(u32::from);
    let mut all = Vec::new();
    for parts in [
        vec![a, b, c, d],
        vec![a, b, c << 8 | d],
        vec![a, b << 16 | c << 8 | d],
        vec![a << 24 | b << 16 | c << 8 | d],
    ] {
        let mut heads = vec![String::new()];
        for part in parts {
            let dotted = |head: &String, it: String| match head.is_empty() {
                true => it,
                false => format!("{head}.{it}"),
            };
            let next = |head: &String| -> Vec<String> {
                numbers(part)
                    .into_iter()
                    .map(|it| dotted(head, it))
                    .collect()
            };
            heads = heads.iter().flat_map(next).collect();
        }
        all.extend(heads);
    }
    let plain = ip.to_string();
    let mapped = |from: char, to: char| -> String {
        let shift = |c: char| match c.to_digit(10) {
            Some(digit) => char::from_u32(u32::from(from) + digit).unwrap(),
            None => to,
        };
        plain.chars().map(shift).collect()
    };
    all.push(format!("{plain}."));
    for dot in ['.', '。', '．', '｡'] {
        // full-width, and those of mathematics: bold, double-struck, sans-serif, monospace
        for zero in ['０', '𝟎', '𝟘', '𝟢', '𝟬', '𝟶'] {
            all.push(mapped(zero, dot));
        }
        all.push(plain.replace('.', &dot.to_string()));
    }
    all.push(plain.bytes().map(|it| format!("%{it:02x}")).collect());
    all.push(plain.replace('.', "%2e"));
    all.push(plain.replace('.', ".\u{AD}"));
    let bits = ip.to_bits();
    let (high, low) = (bits >> 16, bits & 0xFFFF);
    for v6 in [
        format!("::ffff:{plain}"),
        format!("::FFFF:{high:x}:{low:04X}"),
        format!("0:0:0:0:0:ffff:{high:04x}:{low:x}"),
        format!("0000:0000:0000:0000:0000:ffff:{plain}"),
        format!("::{plain}"),
        format!("::{high:x}:{low:x}"),
        format!("::ffff:0:{plain}"),
        format!("64:ff9b::{plain}"),
        format!("64:ff9b::{high:x}:{low:x}"),
        format!("64:ff9b:1::{plain}"),
        format!("2002:{high:x}:{low:x}::"),
        format!("2002:{high:x}:{low:x}::1"),
        format!(
            "2001:0:{high:x}:{low:x}::{:x}:{:x}",
            !high & 0xFFFF,
            !low & 0xFFFF
        ),
        format!("2a00:1450::5efe:{plain}"),
        format!("fe80::5efe:{plain}"),
    ] {
        all.push(format!("[{v6}]"));
    }
    all
}

/// Where nobody of ours listens, but something inside might.
const INSIDE: [&str; 20] = [
    "localhost.",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "0",
    "0.0.0.0",
    "127.255.255.254",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "[ff02::1]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "[64:ff9b::a9fe:a9fe]",
];

pub fn corpus() -> Vec<String> {
    let mut all: Vec<String> = INSIDE.iter().map(|it| (*it).to_owned()).collect();
    all.extend(spellings(Ipv4Addr::LOCALHOST));
    all.extend(spellings(Ipv4Addr::new(127, 1, 2, 3)));
    all.sort();
    all.dedup();
    all
}
