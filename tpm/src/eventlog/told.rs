//! Texts out of a log, fit to be shown to people.
//!
//! Comes in: bytes of event data that anybody may have made. Goes out: text of at most [`MAX_TOLD_CHARS`] characters in which nothing moves a
//! cursor, turns the direction of writing or hides. Refused: nothing; what can't be read as text isn't told.

use der::Decode as _;

/// Longest text that is told of an event. A usual kernel command line has below 300 characters.
pub const MAX_TOLD_CHARS: usize = 1_024;
/// What stands where something was left out.
const LEFT_OUT: &str = "...";
/// How much of what two long texts have in common stays before the place where they part.
const BEFORE_DIFFERENCE: usize = 64;

/// Printable ASCII stays; everything else is told by its number. Letters of other scripts may be invisible, or turn what stands beside them.
pub(super) fn printable(text: &str) -> String {
    let mut told = String::new();
    for (at, one) in text.chars().enumerate() {
        if at == MAX_TOLD_CHARS {
            told.push_str(LEFT_OUT);
            break;
        }
        if one == ' ' || one.is_ascii_graphic() {
            told.push(one);
        } else {
            told.push_str(&format!("\\u{{{:x}}}", u32::from(one)));
        }
    }
    told
}

/// Two texts, cut so that the place where they part is seen.
pub(super) fn parted(one: &str, other: &str) -> (String, String) {
    let longest = one.chars().count().max(other.chars().count());
    let common = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let left_out = common.saturating_sub(BEFORE_DIFFERENCE);
    if longest <= MAX_TOLD_CHARS || left_out == 0 {
        return (printable(one), printable(other));
    }
    let rest = |text: &str| text.chars().skip(left_out).collect::<String>();
    (format!("{LEFT_OUT}{}", printable(&rest(one))), format!("{LEFT_OUT}{}", printable(&rest(other))))
}

/// UTF-16, little endian, up to its final zero; as much as is ever told. What isn't a character is told by a replacement.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    let units = units.take_while(|unit| *unit != 0).take(8 * MAX_TOLD_CHARS);
    char::decode_utf16(units).map(|one| one.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// What a loader calls something: one-byte text, or UTF-16 with only Latin letters in it.
pub(super) fn label(bytes: &[u8]) -> Option<String> {
    let text = match bytes {
        [first, 0, ..] if *first != 0 && bytes.len() > 2 => utf16(bytes),
        _ => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let bytes = bytes.get(..end).unwrap_or_default();
            let shown = bytes.get(..8 * MAX_TOLD_CHARS).unwrap_or(bytes);
            String::from_utf8_lossy(shown).into_owned()
        }
    };
    // Bytes that aren't text say nothing.
    let odd = text.chars().filter(|one| *one == char::REPLACEMENT_CHARACTER || one.is_control()).count();
    Some(text).filter(|text| !text.is_empty() && odd * 4 <= text.chars().count())
}

/// What a certificate calls its subject: its common name, else its organisation. RFC 5280, 4.1.2.6.
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    const COMMON_NAME: &str = "2.5.4.3";
    const ORGANISATION: &str = "2.5.4.10";
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let name = certificate.tbs_certificate().subject();
    let of = |wanted: &str| {
        let found = name.iter().find(|one| one.oid.to_string() == wanted)?;
        String::from_utf8(found.value.value().to_vec()).ok()
    };
    of(COMMON_NAME).or_else(|| of(ORGANISATION))
}
