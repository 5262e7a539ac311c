//! Codes of refusals, and a panic of the reader.

use super::code;
use crate::verify::Evidence;
use crate::verify::kit::{Host, NOW_MS, PANICS};
use countersign_core::digest::sha256;
use countersign_core::record::ImaEntries;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::ima::aggregate::Aggregate;
use countersign_tpm::ima::appraise::{ImaRefusal, Rejected};
use countersign_tpm::ima::list::ListError;
use countersign_tpm::ima::policy::{Objection, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::signature::KeyId;
use std::sync::Arc;

#[test]
fn an_ima_list_that_makes_its_reader_panic_is_a_denial() {
    let mut host = Host::new(1);
    let mut call = host.call(NOW_MS, &[]);
    call.ima = Some(ImaEntries { from: 0, column: HashAlg::Sha1.id(), list: sha256(PANICS) });
    host.members.held.insert(sha256(PANICS), Arc::from(PANICS));
    let verified = host.verify(call).unwrap();
    let Evidence::Quoted(quoted) = verified.judged().evidence() else { panic!("the quote holds") };
    let policy = RuntimePolicy::parse(&PolicyDraft::default().encode()).unwrap();
    for _ in 0..2 {
        let finding = verified.judged().appraise_ima(quoted, &host.endorsed, &policy).unwrap_err();
        assert_eq!(finding.code(), RefusalCode::VerifierPanicked);
    }
}

#[test]
fn every_refusal_has_the_code_that_it_is_known_by() {
    let file = |objection| ImaRefusal::Files {
        total: 1,
        first: vec![Rejected { entry: 1, path: String::new(), objection }],
    };
    let refusals = [
        ImaRefusal::Malformed(ListError::TooManyEntries),
        ImaRefusal::NotQuoted(10),
        ImaRefusal::WrongBank { list: HashAlg::Sha384, quote: HashAlg::Sha256 },
        ImaRefusal::ListNeeded("x"),
        ImaRefusal::Base { from: 1, known: 2 },
        ImaRefusal::RegisterEmpty,
        ImaRefusal::OtherRegister { entry: 0, pcr: 11 },
        ImaRefusal::Edited { entry: 0 },
        ImaRefusal::Trimmed,
        ImaRefusal::Rewound { known: 2, proven: 1 },
        ImaRefusal::Mismatch { pcr: 10, entries: 1 },
        ImaRefusal::PaddedSha1,
        ImaRefusal::Lag { max: 1 },
        ImaRefusal::Violation { entry: 1, path: String::new() },
        ImaRefusal::BootAggregate(Aggregate::Zero),
        ImaRefusal::BootAggregateUnchecked,
        ImaRefusal::Buffer { entry: 1 },
        file(Objection::Unknown),
        file(Objection::Digest),
        file(Objection::Signature(KeyId([0; 4]))),
        file(Objection::TooManySignatures),
        ImaRefusal::Files { total: 0, first: Vec::new() },
    ];
    for refusal in refusals {
        assert_eq!(code(&refusal).as_str(), refusal.code());
    }
}
