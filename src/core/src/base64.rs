//! Padded base64 (RFC 4648 §4) of signed texts: each byte string has one encoding.
//!
//! The decoder beneath takes padded pieces in a row (`AA==AA==`); two texts would be one value then, and one of them nobody signed.

use data_encoding::BASE64;

/// The bytes, if the text is the encoding of some: padding at the end only and as much as is needed, no stray bits, nothing outside of the alphabet.
pub(crate) fn padded(text: &str) -> Option<Vec<u8>> {
    if text.trim_end_matches('=').contains('=') {
        return None;
    }
    BASE64.decode(text.as_bytes()).ok()
}

/// The same of exactly `N` bytes.
pub(crate) fn padded_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The length is judged before anything is allocated for the decoded bytes.
    if text.len() != BASE64.encode_len(N) {
        return None;
    }
    padded(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_in_a_row_are_no_encoding() {
        assert_eq!(padded("AQ=="), Some(vec![1]));
        assert_eq!(padded("AQI="), Some(vec![1, 2]));
        assert_eq!(padded(""), Some(Vec::new()));
        for text in [
            "AQ==AQ==", "AQ==AQID", "AQI=AQI=", "AQ", "AQ=", "AQ===", "====", "=", "AR==", "AQ ==", "A-==",
            "AQ==\n",
        ] {
            assert_eq!(padded(text), None, "{text}");
        }
        assert_eq!(padded_array::<3>("AQID"), Some([1, 2, 3]));
        assert_eq!(padded_array::<2>("AQ==AQ=="), None);
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_text(text in "[A-D=]{0,16}") {
            if let Some(bytes) = padded(&text) {
                prop_assert_eq!(BASE64.encode(&bytes), text);
            }
        }
    }
}
