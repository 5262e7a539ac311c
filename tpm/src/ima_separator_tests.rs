//! boot_aggregate on hosts whose system measured its separator into the boot registers after the kernel had made it.

use super::appraise::{ImaRefusal, appraise, appraise_booted};
use super::tests::{Host, compiled, listing, refused, whole};
use crate::algorithm::HashAlg;
use crate::eventlog::{EventLog, VerifiedBootLog, verify_replay};
use crate::ima::aggregate::Aggregate;
use crate::quote::VerifiedQuote;
use crate::testing::booted;

const BANK: HashAlg = HashAlg::Sha256;
const SEPARATED: [u32; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];

fn explained(log: &EventLog, quote: &VerifiedQuote) -> VerifiedBootLog {
    verify_replay(log, quote, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap()
}

/// The log with the words behind it, as an agent may send it.
fn with_words(log: &[u8]) -> Vec<u8> {
    let mut longer = log.to_vec();
    let digests = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| (bank.id(), bank.digest(b"os-separator")));
    for pcr in SEPARATED {
        longer.extend([pcr, 13, 2].iter().flat_map(|number: &u32| number.to_le_bytes()));
        for (id, digest) in &digests {
            longer.extend(id.to_le_bytes());
            longer.extend(digest);
        }
        longer.extend(12_u32.to_le_bytes());
        longer.extend(b"os-separator");
    }
    longer
}

#[test]
fn the_kernels_aggregate_is_of_the_registers_before_the_systems_word() {
    let (_, boot) = booted(7);
    let policy = compiled(&listing(&["/usr/bin/sh"]));
    let mut host = Host::booted().run(&["/usr/bin/sh"]);
    for pcr in SEPARATED {
        host.tpm.extend(BANK, pcr, &BANK.digest(b"os-separator")).unwrap();
    }
    let quote = host.quote();
    let list = whole(host.ima.bytes());
    for log in [boot.log().to_vec(), with_words(boot.log())] {
        let log = explained(&EventLog::parse(&log).unwrap(), &quote);
        let taken = appraise_booted(&quote, Some(&log), None, &list, &policy).unwrap();
        assert_eq!(taken.state().aggregate, Aggregate::Checked);
    }
    // Without the log nobody knows what the registers held before.
    refused(appraise(&quote, None, &list, &policy), "ima-boot-aggregate");
}

#[test]
fn the_aggregate_of_another_boot_is_refused_behind_the_word_too() {
    let (_, boot) = booted(7);
    let policy = compiled(&listing(&[]));
    let mut host = Host::booted();
    let values = [const { [7; 32] }; 10].map(|value| value.to_vec());
    host.ima = crate::simulated::ima::SimulatedIma::after_boot(BANK, &values);
    for pcr in SEPARATED {
        host.tpm.extend(BANK, pcr, &BANK.digest(b"os-separator")).unwrap();
    }
    let quote = host.quote();
    let log = explained(&EventLog::parse(boot.log()).unwrap(), &quote);
    let verdict = appraise_booted(&quote, Some(&log), None, &whole(host.ima.bytes()), &policy);
    assert_eq!(verdict, Err(ImaRefusal::BootAggregate(Aggregate::Mismatch)));
}
