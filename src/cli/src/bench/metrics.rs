//! What the authority's own metrics say about its signer: how many signatures, and how long the key took for them.
//!
//! Comes in: the text of `GET /metrics` before and after the window (OpenMetrics 1.0). Goes out: signatures a second that the key can make when it does
//! nothing else. Absent metrics are `None`, never a guess.

/// Signatures that the head keys' devices made.
const SIGNATURES: &str = "countersign_head_signer_signatures";
/// How long they took, microseconds.
const BUSY_US: &str = "countersign_head_signer_busy_us";

/// Counters of the head signers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SignerCounts {
    pub(crate) signatures: f64,
    pub(crate) busy_seconds: f64,
}

impl SignerCounts {
    /// Reads both counters, summed over their labels.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self { signatures: counter(text, SIGNATURES)?, busy_seconds: counter(text, BUSY_US)? / 1e6 })
    }

    /// Signatures per busy second between an earlier reading and this one.
    pub(crate) fn raw_signs_per_s(&self, earlier: &Self) -> Option<f64> {
        let signatures = self.signatures - earlier.signatures;
        let busy = self.busy_seconds - earlier.busy_seconds;
        (signatures > 0.0 && busy > 0.0).then(|| signatures / busy)
    }

    /// Signatures between an earlier reading and this one.
    pub(crate) fn signatures_since(&self, earlier: &Self) -> f64 {
        self.signatures - earlier.signatures
    }
}

fn counter(text: &str, name: &str) -> Option<f64> {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Either `name value` or `name{labels} value`; anything else is a longer name.
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    samples.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE countersign_head_signer_signatures gauge\n\
        countersign_head_signer_signatures{key=\"a\"} 30\n\
        countersign_head_signer_signatures{key=\"b } c\"} 12\n\
        countersign_head_signer_signatures_made 9\n\
        countersign_head_signer_busy_us 8400000\n# EOF\n";

    #[test]
    fn counters_are_summed_over_labels_and_longer_names_are_others() {
        let counts = SignerCounts::parse(TEXT).unwrap();
        assert_eq!(counts, SignerCounts { signatures: 42.0, busy_seconds: 8.4 });
    }

    #[test]
    fn a_missing_counter_is_no_answer() {
        assert_eq!(SignerCounts::parse("countersign_head_signer_signatures 1\n"), None);
        assert_eq!(SignerCounts::parse(""), None);
    }

    #[test]
    fn the_raw_rate_is_of_what_happened_between_two_readings() {
        let earlier = SignerCounts { signatures: 10.0, busy_seconds: 2.0 };
        let later = SignerCounts { signatures: 60.0, busy_seconds: 12.0 };
        assert_eq!(later.raw_signs_per_s(&earlier), Some(5.0));
        assert_eq!(later.raw_signs_per_s(&later), None);
        assert!((later.signatures_since(&earlier) - 50.0).abs() < 1e-9);
    }
}
