//! Which entries of two lists are the same.
//!
//! Comes in: two lists of keys in their order. Goes out: what is only in the one and only in the other, so that as much as possible stays in
//! common and in order. Memory: two bytes for each pair of entries between the first and the last difference.

/// Places in the two lists that have no counterpart: a longest common subsequence is left out.
pub(super) fn unpaired<T: PartialEq>(one: &[T], other: &[T]) -> (Vec<usize>, Vec<usize>) {
    let head = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (one, other) = (one.get(head..).unwrap_or_default(), other.get(head..).unwrap_or_default());
    let tail = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
    let one = one.get(..one.len().saturating_sub(tail)).unwrap_or_default();
    let other = other.get(..other.len().saturating_sub(tail)).unwrap_or_default();
    let lengths = lengths(one, other);
    let width = other.len().saturating_add(1);
    let length = |at: usize, beside: usize| lengths.get(at * width + beside).copied().unwrap_or_default();
    let (mut at, mut beside) = (0, 0);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    while at < one.len() || beside < other.len() {
        match (one.get(at), other.get(beside)) {
            (Some(a), Some(b)) if a == b => (at, beside) = (at + 1, beside + 1),
            (Some(_), b) if b.is_none() || length(at + 1, beside) >= length(at, beside + 1) => {
                left.push(head + at);
                at += 1;
            }
            _ => {
                right.push(head + beside);
                beside += 1;
            }
        }
    }
    (left, right)
}

/// For each pair of places how much what follows has in common. A log has at most `MAX_EVENTS` events: below 34 MB, and lengths fit.
fn lengths<T: PartialEq>(one: &[T], other: &[T]) -> Vec<u16> {
    let width = other.len().saturating_add(1);
    let mut lengths = vec![0_u16; width.saturating_mul(one.len().saturating_add(1))];
    for (at, a) in one.iter().enumerate().rev() {
        for (beside, b) in other.iter().enumerate().rev() {
            let of = |at: usize, beside: usize| lengths.get(at * width + beside).copied().unwrap_or_default();
            let longest = if a == b {
                of(at + 1, beside + 1).saturating_add(1)
            } else {
                of(at + 1, beside).max(of(at, beside + 1))
            };
            if let Some(place) = lengths.get_mut(at * width + beside) {
                *place = longest;
            }
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: &str, other: &str, left: &[usize], right: &[usize]) {
        let bytes = |text: &str| text.as_bytes().to_vec();
        assert_eq!(unpaired(&bytes(one), &bytes(other)), (left.to_vec(), right.to_vec()), "{one} {other}");
    }

    #[test]
    fn what_both_have_in_order_is_paired() {
        check("", "", &[], &[]);
        check("abc", "abc", &[], &[]);
        check("abc", "", &[0, 1, 2], &[]);
        check("", "ab", &[], &[0, 1]);
        check("abcd", "abxd", &[2], &[2]);
        check("abcd", "acbd", &[1], &[2]);
        check("abab", "baba", &[0], &[3]);
        check("aab", "ab", &[1], &[]);
        check("xaybzc", "abc", &[0, 2, 4], &[]);
    }
}
