//! The canonical form of JSON that the dual hash-chain format hashes: for ordinary documents that of RFC 8785.
//!
//! No white space; members sorted by UTF-16 code units; the shortest escapes; numbers as 64-bit floating point, printed as ECMAScript prints
//! them. Unpaired surrogates can't occur: the JSON reader refuses them.

use serde_json::{Map, Value};

/// Writes a value.
pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        // Every JSON number has a nearest 64-bit float; the reader refuses what is beyond.
        Value::Number(number) => out.push_str(&ecmascript(number.as_f64().unwrap_or(0.0))),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => write_object(members, out),
    }
}

fn write_object(members: &Map<String, Value>, out: &mut String) {
    let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
    out.push('{');
    for (at, (name, value)) in sorted.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(name, out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// ECMA-262, Number::toString, radix 10.
fn ecmascript(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let sign = if number < 0.0 { "-" } else { "" };
    // The shortest digits that read back as this number, and the power of ten of the first.
    let shortest = format!("{:e}", number.abs());
    let (mantissa, power) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = mantissa.replace('.', "");
    let power: i32 = power.parse().unwrap_or(0);
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let point = power.saturating_add(1);
    let zeros = |many: i32| "0".repeat(usize::try_from(many).unwrap_or(0));
    let body = if (count..=21).contains(&point) {
        format!("{digits}{}", zeros(point - count))
    } else if (1..=21).contains(&point) {
        let (whole, rest) =
            digits.split_at_checked(usize::try_from(point).unwrap_or(0)).unwrap_or((&digits, ""));
        format!("{whole}.{rest}")
    } else if (-5..=0).contains(&point) {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = digits.split_at_checked(1).unwrap_or((&digits, ""));
        let point = if rest.is_empty() { "" } else { "." };
        format!("{first}{point}{rest}e{}{}", if power < 0 { "-" } else { "+" }, power.unsigned_abs())
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_ecmascript_prints_them() {
        for (given, expect) in [
            ("1.0", "1"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("12345678901234567890", "12345678901234567000"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740991", "-9007199254740991"),
            ("0.1", "0.1"),
            ("0.000001", "0.000001"),
            ("1e-7", "1e-7"),
            ("1.25e-9", "1.25e-9"),
            ("123.456", "123.456"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("100", "100"),
        ] {
            let mut out = String::new();
            write(&serde_json::from_str(given).unwrap(), &mut out);
            assert_eq!(out, expect, "{given}");
        }
    }

    #[test]
    fn members_are_sorted_by_utf16_and_text_is_escaped_shortly() {
        let given = r#"{"9":1,"10":2,"\uffee":3,"\ud83d\ude00":4,"a":"\u0001\u0008\u007f\/\u2028é\"\\"}"#;
        let mut out = String::new();
        write(&serde_json::from_str(given).unwrap(), &mut out);
        let expect =
            "{\"10\":2,\"9\":1,\"a\":\"\\u0001\\b\u{7f}/\u{2028}é\\\"\\\\\",\"\u{1f600}\":4,\"\u{ffee}\":3}";
        assert_eq!(out, expect);
    }
}
