//! Heads, receipts and JSON, altered as text: lines, decimals, base64, white space, characters that aren't ASCII.

use crate::dice::Dice;
use crate::keys::{self, HEAD_KEYS};
use crate::plan::ORIGIN;
use countersign_core::note::NoteSignature;
use data_encoding::{BASE64, HEXLOWER};

/// Changes one thing about some base64.
fn alter_base64(text: &str, dice: &mut Dice) -> String {
    let bytes = BASE64.decode(text.as_bytes()).unwrap_or_default();
    match dice.below(10) {
        0 => text.trim_end_matches('=').to_owned(),
        1 => format!("{text}="),
        2 => format!("{text}===="),
        3 => text.replace('+', "-").replace('/', "_"),
        4 => HEXLOWER.encode(&bytes),
        5 => BASE64.encode(&[&bytes[..], &[0]].concat()),
        6 => BASE64.encode(&bytes[..bytes.len().saturating_sub(1)]),
        7 => {
            let mut bytes = bytes;
            let at = dice.below(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
            BASE64.encode(&bytes)
        }
        // The last character before the padding has bits that say nothing.
        8 => {
            let end = text.trim_end_matches('=').len();
            let (front, padding) = text.split_at(end);
            let mut front = front.as_bytes().to_vec();
            if let Some(last) = front.last_mut() {
                *last = dice.one(b"BbCc19/+");
            }
            format!("{}{padding}", String::from_utf8(front).unwrap())
        }
        _ => String::new(),
    }
}

fn alter_decimal(text: &str, dice: &mut Dice) -> String {
    let number: i128 = text.parse().unwrap_or(0);
    match dice.below(12) {
        0 => (number + 1).to_string(),
        1 => (number - 1).to_string(),
        2 => format!("0{text}"),
        3 => format!("+{text}"),
        4 => "0".to_owned(),
        5 => u64::MAX.to_string(),
        6 => (1_i128 << 64).to_string(),
        7 => (1_i128 << 63).to_string(),
        8 => format!("{text} "),
        9 => "٣".to_owned(),
        10 => (number + 1_000).to_string(),
        _ => String::new(),
    }
}

/// Changes what stands behind a line's word, if one does.
fn alter_line(line: &str, dice: &mut Dice) -> String {
    let (front, last) = line.rsplit_once(' ').map_or(("", line), |(front, last)| (front, last));
    let space = if front.is_empty() { "" } else { " " };
    if front.starts_with("control ") && dice.percent(50) {
        let number = front.trim_start_matches("control ");
        return format!("control {} {last}", alter_decimal(number, dice));
    }
    let last = if last.bytes().all(|byte| byte.is_ascii_digit()) {
        alter_decimal(last, dice)
    } else if BASE64.decode(last.as_bytes()).is_ok() {
        alter_base64(last, dice)
    } else {
        dice.one(&["", "test.example/gol", "https://test.example/log", "Test.example/log", "a b", "ä"])
            .to_owned()
    };
    format!("{front}{space}{last}")
}

/// Changes that any text of lines can have.
fn alter_lines(text: &str, dice: &mut Dice) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let at = dice.below(lines.len());
    let other = dice.below(lines.len());
    match dice.below(14) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => lines.swap(at, other),
        3 => lines[at].push('\r'),
        4 => lines[at].push(' '),
        5 => lines[at].insert(0, ' '),
        6 => lines[at] = lines[at].to_uppercase(),
        7 => lines.insert(at, String::new()),
        8 => lines.insert(at, dice.one(&["x", "x y", "sha3-512 AAAA", "— a b", "time 1"]).to_owned()),
        9 => lines[at].push(dice.one(&['\t', '\0', '\u{7f}', '\u{a0}', '\u{2028}', 'é', '\u{85}', '\u{1c}'])),
        10 => lines[at] = lines[at].replacen(' ', "  ", 1),
        11 => lines[at] = lines[other].clone(),
        12 => lines[at].clear(),
        _ => return text.replace('\n', "\r\n"),
    }
    lines.join("\n")
}

/// A head body to be signed as it is then.
pub(crate) fn alter_body(body: &str, dice: &mut Dice) -> String {
    if dice.percent(25) {
        return alter_lines(body, dice);
    }
    let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
    let at = dice.below(lines.len());
    lines[at] = alter_line(&lines[at], dice);
    lines.join("\n") + "\n"
}

/// A line that looks like a witness's.
pub(crate) fn cosignature() -> String {
    let signature = [vec![0; 8], vec![1; 64]].concat();
    NoteSignature::new("witness.example/w1", [4, 5, 6, 7], signature).unwrap().format()
}

fn random_line(body: &str, dice: &mut Dice) -> String {
    let seed = dice.one(&HEAD_KEYS);
    let good = keys::line(ORIGIN, seed, body);
    let line = |name: &str, id, signature| {
        NoteSignature::new(name, id, signature).map_or(String::new(), |l| l.format())
    };
    match dice.below(9) {
        // Another's name or key id: a line that says nothing to these readers.
        0 => cosignature(),
        1 => line("witness.example/w1", good.key_id(), good.signature().to_vec()),
        2 => line(ORIGIN, [1, 2, 3, 4], vec![5; 64]),
        3 => line("ä", [1, 2, 3, 4], vec![5]),
        4 => good.format(),
        5 => keys::line(ORIGIN, seed, "something else\n").format(),
        6 => line(ORIGIN, good.key_id(), good.signature()[..good.signature().len() - 1].to_vec()),
        7 => line(ORIGIN, good.key_id(), [good.signature(), &[0]].concat()),
        // The other signature of the same key: s negated, or flipped where that is no signature.
        _ => {
            let mut signature = good.signature().to_vec();
            let last = signature.len() - 1;
            signature[last] ^= dice.one(&[1, 0x10, 0x80]);
            line(ORIGIN, good.key_id(), signature)
        }
    }
}

/// A note, altered after it was signed.
pub(crate) fn alter_note(note: &str, dice: &mut Dice) -> String {
    let Some((body, lines)) = note.rsplit_once("\n\n") else {
        return if dice.percent(50) {
            alter_lines(note, dice)
        } else {
            format!("{note}\n{}", random_line(note, dice))
        };
    };
    let body = format!("{body}\n");
    let mut lines: Vec<String> = lines.lines().map(|line| format!("{line}\n")).collect();
    let at = dice.below(lines.len());
    match dice.below(12) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        2 => lines.reverse(),
        3 | 4 => lines.insert(at, random_line(&body, dice)),
        5 => lines.push(random_line(&body, dice)),
        6 => {
            let many = dice.one(&[15, 62, 63, 64]);
            lines.extend((0..many).map(|n: u8| {
                NoteSignature::new("w.example", [n, 0, 0, 1], vec![n; dice.one(&[1, 72])]).unwrap().format()
            }));
        }
        7 => {
            let line = lines[at].trim_end().to_owned();
            lines[at] = alter_line(&line, dice) + "\n";
        }
        8 => lines[at] = alter_lines(&lines[at], dice),
        9 => lines[at] = lines[at].replace('\u{2014}', dice.one(&["-", "\u{2013}", "\u{2014} ", ""])),
        10 => return body,
        _ => return alter_lines(note, dice),
    }
    format!("{body}\n{}", lines.concat())
}

/// A receipt: its own lines, or those of the head inside.
pub(crate) fn alter_receipt(receipt: &str, dice: &mut Dice) -> String {
    let Some((front, note)) = receipt.split_once("\n\n") else { return alter_lines(receipt, dice) };
    match dice.below(5) {
        0 => alter_lines(receipt, dice),
        1 => format!("{front}\n\n{}", alter_note(note, dice)),
        2 => format!("{}\n\n{note}", alter_lines(front, dice)),
        3 => {
            let mut lines: Vec<String> = front.lines().map(str::to_owned).collect();
            let at = dice.below(lines.len());
            lines[at] = alter_line(&lines[at], dice);
            format!("{}\n\n{note}", lines.join("\n"))
        }
        _ => alter_bytes(receipt, dice),
    }
}

/// JSON: white space and escapes that change nothing, and what isn't this JSON.
pub(crate) fn alter_json(text: &str, dice: &mut Dice) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match dice.below(12) {
        0 => serde_json::to_string_pretty(&value).unwrap().replace('\n', dice.one(&[" ", "\t", "\r"])),
        1 => format!("\u{feff}{text}"),
        2 => text.replacen('{', "{\"x\":1,", 1),
        3 => text.replacen("\":", "\" : ", 1),
        4 => text.replacen(':', ":0", 1),
        5 => text.replacen(":1", dice.one(&[":1.0", ":1e0", ":-1", ":01", ":\"1\"", ":null", ":2"]), 1),
        // A member twice.
        6 => {
            let member = text.trim_start_matches('{').split(',').next().unwrap_or_default();
            text.replacen('{', &format!("{{{member},"), 1)
        }
        7 => text.replacen('t', "\\u0074", 1),
        8 => text.replacen('"', "\"\\ud800", dice.one(&[1, 2, 3])),
        9 => text.replacen('[', dice.one(&["[null,", "[[],", "[\"\",", "[1,", "{"]), 1),
        10 => text.replace('=', "").replacen("AA", "AB", 1),
        _ => alter_bytes(text, dice),
    }
}

/// A character cut, doubled or changed.
fn alter_bytes(text: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    if letters.is_empty() {
        return "x".to_owned();
    }
    let at = dice.below(letters.len());
    match dice.below(4) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, letters[at]),
        2 => letters.truncate(at),
        _ => letters[at] = dice.one(&['A', 'a', '0', '_', '=', ' ', '"', '\\', 'é', '\n', '}', '[']),
    }
    letters.into_iter().collect()
}
