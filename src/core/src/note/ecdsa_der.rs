//! ECDSA P-256 signatures between their two forms: r || s of 64 bytes, and the DER of RFC 3279 section 2.2.3.
//!
//! Every r || s has exactly one DER form and the reader takes no other. Whether r and s are in range is for the
//! verification to say.

use crate::key::SIGNATURE_LEN;

const TAG_INTEGER: u8 = 0x02;
const TAG_SEQUENCE: u8 = 0x30;
const COORDINATE: usize = SIGNATURE_LEN / 2;

/// The bytes are not the DER of an ECDSA P-256 signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a DER ECDSA signature of two integers below 2^256")]
pub struct DerSignatureError;

/// DER SEQUENCE of two INTEGERs from r || s.
pub fn ecdsa_fixed_to_der(fixed: &[u8; SIGNATURE_LEN]) -> Vec<u8> {
    let (r, s) = fixed.split_at(COORDINATE);
    let body = [integer(r), integer(s)].concat();
    // At most 2 * (2 + 33) = 70 bytes, so the short form of the length always does (X.690 section 8.1.3.4).
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    [&[TAG_SEQUENCE, length][..], &body].concat()
}

/// r || s from a DER SEQUENCE of two INTEGERs.
///
/// # Errors
/// [`DerSignatureError`] for negative, padded or too large integers, long-form lengths, and surplus bytes.
pub fn ecdsa_der_to_fixed(der: &[u8]) -> Result<[u8; SIGNATURE_LEN], DerSignatureError> {
    let [TAG_SEQUENCE, length, body @ ..] = der else { return Err(DerSignatureError) };
    if usize::from(*length) != body.len() || *length >= 0x80 {
        return Err(DerSignatureError);
    }
    let (r, rest) = take_integer(body)?;
    let (s, rest) = take_integer(rest)?;
    if !rest.is_empty() {
        return Err(DerSignatureError);
    }
    let mut fixed = [0; SIGNATURE_LEN];
    let (to_r, to_s) = fixed.split_at_mut(COORDINATE);
    right_align(r, to_r);
    right_align(s, to_s);
    Ok(fixed)
}

fn integer(value: &[u8]) -> Vec<u8> {
    let zeros = value.iter().take_while(|byte| **byte == 0).count();
    let digits = value.get(zeros..).unwrap_or_default();
    // X.690 section 8.3: two's complement in the fewest bytes; a leading zero keeps a set top bit positive and
    // stands alone for the value zero.
    let pad = digits.first().is_none_or(|first| first & 0x80 != 0);
    let length = u8::try_from(digits.len() + usize::from(pad)).unwrap_or(u8::MAX);
    let padding: &[u8] = if pad { &[0] } else { &[] };
    [&[TAG_INTEGER, length][..], padding, digits].concat()
}

/// The digits of the INTEGER at the front, without sign padding and at most [`COORDINATE`] bytes, and the rest.
fn take_integer(input: &[u8]) -> Result<(&[u8], &[u8]), DerSignatureError> {
    let [TAG_INTEGER, length, rest @ ..] = input else { return Err(DerSignatureError) };
    // A long-form length has its top bit set and is above every possible rest here.
    let (content, rest) = rest.split_at_checked(usize::from(*length)).ok_or(DerSignatureError)?;
    let digits = match content {
        [] => return Err(DerSignatureError),
        [0] => &[],
        // X.690 section 8.3.2: the first nine bits are not all equal, or the integer is padded.
        [0, next, ..] if next & 0x80 == 0 => return Err(DerSignatureError),
        [0, digits @ ..] => digits,
        [first, ..] if first & 0x80 != 0 => return Err(DerSignatureError),
        digits => digits,
    };
    if digits.len() > COORDINATE {
        return Err(DerSignatureError);
    }
    Ok((digits, rest))
}

fn right_align(digits: &[u8], to: &mut [u8]) {
    to.iter_mut().rev().zip(digits.iter().rev()).for_each(|(to, digit)| *to = *digit);
}
