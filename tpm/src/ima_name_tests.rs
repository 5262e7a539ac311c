//! What a list says beside what is measured decides nothing: names of templates, and a first entry that says nothing.

use super::aggregate;
use super::appraise::{Appraised, ImaRefusal, appraise};
use super::policy::{Pattern, PolicyDraft};
use super::template::Template;
use super::tests::{Host, compiled, listing, program, refused, rule, whole};
use crate::algorithm::HashAlg;
use crate::simulated::ima::{SimulatedIma, ended, fields, named};

const BANK: HashAlg = HashAlg::Sha256;

/// A host whose list has one more entry, of this template.
fn host(template: Template, data: &[u8]) -> Host {
    let mut host = Host::booted();
    host.ima.entry(template, data);
    host
}

/// The same list with the last entry under another name: the register is the same.
fn relabelled(honest: &Host, name: Template, data: &[u8]) -> Vec<u8> {
    let before = honest.ima.bytes().len() - honest.ima.bytes_from(honest.ima.entries() - 1).len();
    let mut last = SimulatedIma::default();
    last.entry(name, data);
    [&honest.ima.bytes()[..before], last.bytes()].concat()
}

/// What the host's own list leads to, and what the relabelled one does.
fn both(
    template: Template,
    name: Template,
    data: &[u8],
    draft: &PolicyDraft,
) -> (Result<Appraised, ImaRefusal>, Result<Appraised, ImaRefusal>) {
    let mut host = host(template, data);
    let quote = host.quote();
    let policy = compiled(draft);
    let edited = relabelled(&host, name, data);
    (
        appraise(&quote, None, &whole(host.ima.bytes()), &policy),
        appraise(&quote, None, &whole(&edited), &policy),
    )
}

#[test]
fn a_list_that_begins_with_a_violation_is_not_whole_however_many_the_policy_takes() {
    for required in [true, false] {
        let mut draft = listing(&["/a"]);
        draft.settings.max_violations = 3;
        draft.settings.require_boot_aggregate = required;
        let mut host = Host::booted();
        host.ima = SimulatedIma::default();
        host.ima.violate(aggregate::NAME);
        let mut host = host.run(&["/a"]);
        let quote = host.quote();
        refused(appraise(&quote, None, &whole(host.ima.bytes()), &compiled(&draft)), "ima-trimmed");
    }
}

#[test]
fn a_buffer_is_one_by_what_it_holds() {
    let data = fields(&[&named(BANK, &BANK.digest(b"a key")), &ended(b".ima"), b"a key"]);
    let mut draft = listing(&[]);
    draft.allow(b".ima", rule(&BANK.digest(b"a key")));
    let (honest, edited) = both(Template::ImaBuf, Template::ImaSig, &data, &draft);
    let honest = honest.unwrap();
    assert_eq!(honest.state().counts.buffers, 1);
    assert_eq!(edited.unwrap().state(), honest.state());
    // A file that is called a buffer isn't counted as one.
    let data = fields(&[&named(BANK, &program("/a")), &ended(b"/a"), &[3, 2, 4, 1, 1, 1, 1, 0, 1, 9]]);
    let (honest, edited) = both(Template::ImaSig, Template::ImaBuf, &data, &listing(&["/a"]));
    assert_eq!(honest.unwrap().state().counts.buffers, 0);
    refused(edited, "ima-buffer");
    // An empty file without a signature, and a buffer without bytes, which the kernel doesn't measure.
    let data = fields(&[&named(BANK, &BANK.digest(b"")), &ended(b"/empty"), b""]);
    let mut draft = listing(&[]);
    draft.allow(b"/empty", rule(&BANK.digest(b"")));
    let (honest, edited) = both(Template::ImaSig, Template::ImaBuf, &data, &draft);
    let honest = honest.unwrap();
    assert_eq!(honest.state().counts.buffers, 0);
    assert_eq!(edited.unwrap().state(), honest.state());
}

#[test]
fn what_cannot_be_told_from_a_buffer_is_refused() {
    let mut draft = listing(&[]);
    draft.excludes.push(Pattern::Prefix(b"/".to_vec()));
    // SHA-224 isn't computed here.
    let with = |third: &[u8]| fields(&[&[&b"sha224:\0"[..], &[7; 28]].concat(), &ended(b"/a"), third]);
    for name in [Template::ImaSig, Template::ImaBuf] {
        let (_, verdict) = both(Template::ImaBuf, name, &with(b"a key"), &draft);
        refused(verdict, "ima-buffer");
    }
    for kind in [3, 5, 6] {
        let (honest, edited) = both(Template::ImaSig, Template::ImaBuf, &with(&[kind, 2, 4]), &draft);
        assert_eq!(honest.unwrap().state().counts.buffers, 0);
        refused(edited, "ima-buffer");
    }
}

#[test]
fn no_name_of_a_template_makes_another_fact_of_the_same_data() {
    let digest = named(BANK, &program("/a"));
    let v2 = [b"ima:", digest.as_slice()].concat();
    let buffer = named(BANK, &BANK.digest(b"a key"));
    let plain = named(BANK, &program("without"));
    let (path, name) = (ended(b"/a"), ended(b".ima"));
    let signature: &[u8] = &[3, 2, 4, 1, 1, 1, 1, 0, 1, 9];
    let entries = [
        (Template::ImaNg, fields(&[&digest, &path])),
        (Template::ImaNgV2, fields(&[&v2, &path])),
        (Template::ImaSig, fields(&[&digest, &path, signature])),
        (Template::ImaSig, fields(&[&digest, &path, b""])),
        (Template::ImaSigV2, fields(&[&v2, &path, signature])),
        (Template::ImaModsig, fields(&[&digest, &path, signature, &plain, b"pkcs7"])),
        (Template::ImaModsig, fields(&[&digest, &path, b"", b"", b""])),
        (Template::ImaBuf, fields(&[&buffer, &name, b"a key"])),
    ];
    let mut draft = listing(&["/a"]);
    draft.allow(b".ima", rule(&BANK.digest(b"a key")));
    let mut told = 0;
    for (template, data) in &entries {
        for name in Template::ALL.into_iter().filter(|name| *name != Template::Ima && name != template) {
            let (honest, edited) = both(*template, name, data, &draft);
            let honest = honest.unwrap();
            if let Ok(edited) = edited {
                assert_eq!(edited.state(), honest.state(), "{template:?} as {name:?}");
                told += 1;
            }
        }
    }
    assert!(told >= 2, "{told}");
}
