//! Unsigned numbers in databases whose integers are signed.

/// Everything ordered that is stored in one stays below 2^63 by the limit on tree sizes or by sense (times); a hostile value is kept as the
/// largest, never wrapped.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back. Negative values are never written.
pub(super) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
