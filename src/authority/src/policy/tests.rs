//! What loads, what it answers, and what is refused with which place in the text.

use super::evaluate::context;
use super::reads::Reads;
use super::{
    CompiledPolicy, EARLIER_SCHEMAS, PolicyCache, PolicyFacts, PolicyInvalid, PolicyUnavailable, SCHEMA,
    SecureBootFact, SourcePosition, Verdict,
};
use crate::appraise::unappraised;
use crate::verify::Evidence;
use crate::verify::kit::{Host, NOW_MS, PERMIT, delegation, document};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{Endorsement, EndorsementKind, HostKeyKind, Tier, TpmModel};
use countersign_core::request::{Request, RequestDocument};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::attest::ClockInfo;
use countersign_tpm::eventlog::facts::SECTIONS;
use countersign_tpm::eventlog::{EventLog, VerifiedBootLog, verify_replay};
use countersign_tpm::simulated::SimulatedTpm;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

fn compiled(policies: &[(&str, &str)]) -> CompiledPolicy {
    CompiledPolicy::load(&document(policies)).unwrap()
}

fn parsed(document: &RequestDocument) -> Request {
    Request::parse(&serde_json::to_vec(document).unwrap()).unwrap()
}

fn affirmed() -> Appraisal {
    Appraisal { tier: Tier::Affirming, vector: Vec::new(), reference_set: Some("fleet".to_owned()) }
}

fn ask(policy: &CompiledPolicy, change: impl FnOnce(&mut RequestDocument)) -> Verdict {
    let mut document = Host::new(1).request("r-1");
    change(&mut document);
    let request = parsed(&document);
    policy.evaluate(&facts(&request, &affirmed()))
}

/// What the simulated boot proves.
fn boot() -> &'static VerifiedBootLog {
    static BOOT: OnceLock<Arc<VerifiedBootLog>> = OnceLock::new();
    BOOT.get_or_init(|| {
        let mut host = Host::new(1);
        let call = host.call(NOW_MS, &[]);
        let verified = host.verify(call).unwrap();
        let Evidence::Quoted(quoted) = verified.judged().evidence() else { panic!("the quote holds") };
        Arc::clone(quoted.boot.as_ref().unwrap())
    })
}

const CERTIFIED: Endorsement =
    Endorsement { kind: EndorsementKind::EkCertificate, weak_key: false, tpm: None, device: None };

const CLOCK: ClockInfo = ClockInfo { clock_ms: 1, reset_count: 5, restart_count: 2, safe: true };

fn facts<'a>(request: &'a Request, appraisal: &'a Appraisal) -> PolicyFacts<'a> {
    PolicyFacts {
        request,
        appraisal,
        secure_boot: SecureBootFact::On,
        boot: boot(),
        firmware_version: 0x0007_0002_0000_0005,
        clock: CLOCK,
        host_key_kind: HostKeyKind::Certified,
        endorsement: &CERTIFIED,
        asserted: &[],
        depth: 0,
        root: None,
        ima: None,
    }
}

fn invalid(policies: &[(&str, &str)]) -> PolicyInvalid {
    CompiledPolicy::load(&document(policies)).unwrap_err()
}

#[test]
fn the_sample_policy_loads_without_a_warning() {
    assert_eq!(compiled(&[("base", PERMIT)]).warnings(), [""; 0]);
}

#[test]
fn a_permit_names_itself_and_the_default_is_no() {
    let policy = compiled(&[("base", PERMIT)]);
    assert_eq!(ask(&policy, |_| {}), Verdict::Permitted(vec!["base#exec-on-good-hosts".to_owned()]));
    assert_eq!(ask(&policy, |request| request.aud = "other".to_owned()), Verdict::Denied(Vec::new()));
    assert_eq!(ask(&compiled(&[]), |_| {}), Verdict::Denied(Vec::new()));
}

#[test]
fn an_action_belongs_to_the_family_before_its_first_dot() {
    let policy = compiled(&[("base", PERMIT), ("all", "permit (principal, action, resource);")]);
    let action = |name: &str| ask(&policy, |request| request.action = name.to_owned());
    assert_eq!(
        action("call.github.issue"),
        Verdict::Permitted(vec!["all".to_owned(), "base#tools".to_owned()])
    );
    assert_eq!(action("call"), Verdict::Permitted(vec!["all".to_owned()]));
    assert_eq!(action("request.get"), Verdict::Permitted(vec!["all".to_owned()]));
    // Even a policy for every action permits none that the schema doesn't declare.
    for unknown in ["deploy", "calls", "execute.call", "call-x"] {
        assert_eq!(action(unknown), Verdict::Denied(Vec::new()), "{unknown}");
    }
}

#[test]
fn forbid_wins_and_is_named() {
    let forbid = r#"forbid (principal, action in [Action::"exec"], resource) when { principal.path == "payments/worker" };"#;
    let policy = compiled(&[("base", PERMIT), ("stop", forbid)]);
    assert_eq!(ask(&policy, |_| {}), Verdict::Denied(vec!["stop".to_owned()]));
}

#[test]
fn a_policy_that_fails_to_evaluate_denies_where_cedar_alone_would_permit() {
    let failing = r#"forbid (principal, action == Action::"exec", resource)
        when { context.ttl_secs + 9223372036854775807 > 0 };"#;
    let policy = compiled(&[("base", PERMIT), ("overflow", failing)]);
    assert_eq!(ask(&policy, |_| {}), Verdict::Failed(vec!["overflow".to_owned()]));
}

#[test]
fn policies_see_host_lineage_and_delegation() {
    let host = Host::new(1).endorsed.host.to_hex();
    let source = format!(
        r#"permit (principal in Host::"{host}", action == Action::"exec", resource == Workload::"{}")
        when {{
            context.tier == "affirming" && context has reference_set && context.reference_set == "fleet" &&
            context.secure_boot == "on" && context.host_key == "certified" && context.ek_certificate &&
            context.endorsement.kind == "ek-certificate" && !context.endorsement.weak_key &&
            !(context.endorsement has manufacturer) &&
            context.firmware.version_1 >= 458754 && context.firmware.version_2 == 5 &&
            !context.asserted.contains("nothing") && context.depth == 0 && !context.has_parent && !(context has root) &&
            context has delegation && context.delegation.budget <= 10 &&
            ["call.a"].containsAll(context.delegation.actions)
        }};"#,
        "ab".repeat(32)
    );
    let policy = compiled(&[("all", &source)]);
    let asked = |budget| {
        move |request: &mut RequestDocument| {
            request.delegation = Some(delegation(&["call.a"], &["gate"], 2, budget));
        }
    };
    assert_eq!(ask(&policy, asked(10)), Verdict::Permitted(vec!["all".to_owned()]));
    assert_eq!(ask(&policy, asked(11)), Verdict::Denied(Vec::new()));
    assert_eq!(ask(&policy, |_| {}), Verdict::Denied(Vec::new()));
}

#[test]
fn policies_see_what_the_boot_log_proves() {
    let proven = boot().facts();
    let hex = |digest: &[u8]| data_encoding::HEXLOWER.encode(digest);
    let loader = hex(&proven.applications.as_ref().unwrap()[0]);
    let dbx = hex(&proven.forbidden.as_ref().unwrap().digest);
    let kernel = hex(&proven.files.as_ref().unwrap()[0]);
    let clauses = [
        r#"context.boot.bank == "sha256" && context.boot.registers.contains(14)"#.to_owned(),
        r#"context.boot has firmware && context.boot.firmware == "SIM-1.0""#.to_owned(),
        format!(r#"context.boot has dbx && context.boot.dbx == "{dbx}""#),
        format!(r#"context.boot has loader && context.boot.loader == "{loader}""#),
        format!(r#"context.boot has applications && context.boot.applications.contains("{loader}")"#),
        format!(r#"context.boot has files && context.boot.files.contains("{kernel}")"#),
        "context.boot has option_roms && context.boot.option_roms.isEmpty()".to_owned(),
        "context.boot has debug_mode && !context.boot.debug_mode".to_owned(),
        "context.boot has exit_boot_services && context.boot.exit_boot_services".to_owned(),
        r#"context.boot has cmdline && context.boot.cmdline like "/vmlinuz root=*" && !(context.boot.cmdline like "*init=*")"#.to_owned(),
        // No unified kernel image, no shim that says anything, nothing from registers that aren't quoted.
        "!(context.boot has kernel) && !(context.boot has sbat_level)".to_owned(),
        "!(context.boot.sections has cmdline) && !(context.boot.sections has linux)".to_owned(),
        "context.clock.resets == 5 && context.clock.restarts == 2 && context.clock.safe".to_owned(),
    ];
    for clause in clauses {
        let ask_for = |when: &str| {
            let policy = format!("permit (principal, action, resource) when {{ {when} }};");
            ask(&compiled(&[("boot", &policy)]), |_| {})
        };
        assert_eq!(ask_for(&clause), Verdict::Permitted(vec!["boot".to_owned()]), "{clause}");
        assert_eq!(ask_for(&format!("!({clause})")), Verdict::Denied(Vec::new()), "{clause}");
    }
    // A fact that may be absent has to be asked for.
    assert!(
        invalid(&[("x", r#"permit (principal, action, resource) when { context.boot.loader == "" };"#)])
            .policy
            .is_some()
    );
}

#[test]
fn what_no_policy_reads_is_not_put() {
    let read = |scope: &str, when: &str, member: &str| {
        let source = format!("permit ({scope}, action == Action::\"exec\", resource) when {{ {when} }};");
        compiled(&[("one", &source)])
            .slices
            .map(|slice| (slice.reads.member(member), slice.reads.principal()))
    };
    let neither = (false, false);
    let boot = |when: &str| read("principal", when, "boot");
    assert_eq!(boot("context.tier == \"warning\""), [neither; 3]);
    assert_eq!(boot("principal.path == \"boot\""), [(false, true), neither, neither]);
    assert_eq!(boot("context.boot.bank == \"sha256\""), [(true, false), neither, neither]);
    assert_eq!(boot(r#"context["b\u{6f}ot"].bank == "sha256""#), [(true, false), neither, neither]);
    let nested = "context.depth > 1 || (if context.has_parent then true else context.boot has loader)";
    assert_eq!(boot(nested), [(true, false), neither, neither]);
    assert_eq!(boot("context == context"), [(true, false), neither, neither], "the context as a whole");
    let scopes = [
        "principal == Runtime::\"r\"",
        "principal is Runtime",
        "principal in Host::\"h\"",
        "principal is Runtime in Host::\"h\"",
    ];
    let principal = scopes.map(|scope| read(scope, "true", "tier").map(|(_, principal)| principal)[0]);
    assert_eq!(principal, [false, false, true, true]);
    assert!(boot("context.depth == 0 && [principal].contains(principal)")[0].1);
}

/// A log of a unified kernel image with every section that its stub measures.
fn unified() -> VerifiedBootLog {
    unified_in(&[])
}

/// The same in a boot phase.
fn unified_in(words: &[&str]) -> VerifiedBootLog {
    let mut bytes = Host::new(1).boot.log().to_vec();
    let measured = SECTIONS.iter().flat_map(|name| [format!("{name}\0"), format!("contents of {name}")]);
    for text in measured {
        let [short, long] = [HashAlg::Sha256, HashAlg::Sha384].map(|bank| bank.digest(text.as_bytes()));
        let head: Vec<u8> = [11_u32, 13, 2].into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend([&head[..], &[0x0b, 0], &short, &[0x0c, 0], &long, &[0; 4]].concat());
    }
    let log = EventLog::parse(&bytes).unwrap();
    let mut values: Vec<(u32, Vec<u8>)> =
        log.replay(HashAlg::Sha256).unwrap().pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let (_, image) = values.iter_mut().find(|(pcr, _)| *pcr == 11).unwrap();
    for word in words {
        *image = HashAlg::Sha256.digest_parts(&[image, &HashAlg::Sha256.digest(word.as_bytes())]);
    }
    let tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(3)).unwrap();
    verify_replay(&log, &tpm.worn(HashAlg::Sha256, &values).unwrap(), &[0, 7]).unwrap()
}

#[test]
fn policies_see_every_section_of_a_unified_kernel_image() {
    let boot = unified();
    let request = parsed(&Host::new(1).request("r-1"));
    let affirmed = affirmed();
    let facts = PolicyFacts { boot: &boot, ..facts(&request, &affirmed) };
    let permits = |when: &str| {
        let policy = compiled(&[("x", &format!("permit (principal, action, resource) when {{ {when} }};"))]);
        policy.evaluate(&facts) == Verdict::Permitted(vec!["x".to_owned()])
    };
    for name in SECTIONS {
        let member = name.trim_start_matches('.');
        let digest =
            data_encoding::HEXLOWER.encode(&HashAlg::Sha256.digest(format!("contents of {name}").as_bytes()));
        let is =
            format!("context.boot.sections has {member} && context.boot.sections.{member} == \"{digest}\"");
        assert!(permits(&is), "{name}");
        assert!(!permits(&is.replace(&digest, "00")), "{name}");
    }
    assert!(permits(
        "context.boot has kernel && context.boot.sections has linux && context.boot.kernel == context.boot.sections.linux"
    ));
}

#[test]
fn policies_see_the_boot_phase_of_a_unified_kernel_image() {
    let request = parsed(&Host::new(1).request("r-1"));
    let affirmed = affirmed();
    let permits = |words: &[&str], when: &str| {
        let boot = unified_in(words);
        let facts = PolicyFacts { boot: &boot, ..facts(&request, &affirmed) };
        let policy = compiled(&[("x", &format!("permit (principal, action, resource) when {{ {when} }};"))]);
        policy.evaluate(&facts) == Verdict::Permitted(vec!["x".to_owned()])
    };
    let running =
        "context.boot has phase && context.boot.phase == \"enter-initrd:leave-initrd:sysinit:ready\"";
    let ready = ["enter-initrd", "leave-initrd", "sysinit", "ready"];
    assert!(permits(&ready, running) && !permits(&ready[..3], running) && !permits(&ready[2..], running));
    assert!(permits(&ready[2..], "context.boot has phase && context.boot.phase == \"sysinit:ready\""));
    assert!(permits(&ready, "context.boot.registers.contains(11) && context.boot.sections has linux"));
    assert!(permits(&[], "context.boot has phase && context.boot.phase == \"\""));
    assert!(permits(&["other"], "!(context.boot has phase) && !(context.boot has kernel)"));
    let source = "permit (principal, action, resource) when { context.boot.phase == \"\" };";
    assert!(invalid(&[("x", source)]).policy.is_some(), "it may be absent");
}

/// Conditions that look at every part of the question, in every form of the language that can.
const LOOKS: [&str; 16] = [
    "context.clock.resets > 4 && !context.clock.safe",
    "context.tier == \"affirming\"",
    "context.secure_boot == \"unknown\" || context.host_key != \"certified\"",
    "context has reference_set && context.reference_set == \"fleet\"",
    "context has root",
    "context has delegation && context.delegation.depth > 0",
    "context has ima && context.ima.violations > 0",
    "context.asserted.contains(\"runtime\")",
    "context.firmware.version_1 > 0",
    "if context.has_parent then context.depth > 0 else context.ttl_secs < 61",
    "context.action like \"exec*\" && context.audience == \"gate\"",
    "principal.path like \"*runner*\"",
    "principal in Host::\"00\"",
    "context has boot && context.boot.bank == \"sha256\"",
    "context.arguments != \"\" && context.ek_certificate",
    "context.endorsement has model || context.endorsement.kind != \"ek-allowed\"",
];

#[test]
fn leaving_out_what_nobody_reads_changes_no_verdict() {
    let request = parsed(&Host::new(1).request("r-1"));
    let affirmed = affirmed();
    for (first, one) in LOOKS.iter().enumerate() {
        for (second, other) in LOOKS.iter().enumerate() {
            for negated in ["", "!"] {
                let permit = format!("permit (principal, action, resource) when {{ {one} }};");
                let forbid = format!("forbid (principal, action, resource) when {{ {negated}({other}) }};");
                let policy = compiled(&[("a", &permit), ("b", &forbid)]);
                let mut whole = compiled(&[("a", &permit), ("b", &forbid)]);
                whole.slices.iter_mut().for_each(|slice| slice.reads = Reads::all());
                let facts = facts(&request, &affirmed);
                let verdict = policy.evaluate(&facts);
                assert!(!matches!(verdict, Verdict::Failed(_)), "{first} {second} {verdict:?}");
                assert_eq!(verdict, whole.evaluate(&facts), "{one} against {negated} {other}");
            }
        }
    }
}

#[test]
fn the_context_that_is_built_is_the_one_that_the_schema_declares() {
    let schema = cedar_policy::Schema::from_str(SCHEMA).unwrap();
    let mut document = Host::new(1).request("r-1");
    document.delegation = Some(delegation(&["exec"], &["gate"], 1, 1));
    let request = parsed(&document);
    let (affirmed, none) = (affirmed(), unappraised());
    let full = PolicyFacts { root: Some(&Sha256Digest::ZERO), depth: 3, ..facts(&request, &affirmed) };
    document.delegation = None;
    let plain = parsed(&document);
    let model = |word: &str| word.to_owned();
    let described = Endorsement {
        kind: EndorsementKind::IakCertificate,
        weak_key: true,
        tpm: Some(TpmModel { manufacturer: model("STM"), model: model("ST33"), version: model("1") }),
        device: Some(DeviceIdentity {
            certificate: Sha256Digest::ZERO,
            key: Sha256Digest::ZERO,
            serial: Some(model("SN-0001")),
            hardware: Some(HardwareName { kind: model("2.23.133.1.2"), serial: vec![0xab] }),
        }),
    };
    let firmware =
        PolicyFacts { firmware_version: u64::MAX, endorsement: &described, ..facts(&plain, &none) };
    let boot = unified();
    let image =
        PolicyFacts { boot: &boot, clock: ClockInfo { safe: false, ..CLOCK }, ..facts(&plain, &none) };
    for facts in [full, firmware, image] {
        let uid = |text: &str| cedar_policy::EntityUid::from_str(text).unwrap();
        for family in super::FAMILIES {
            cedar_policy::Request::new(
                uid(r#"Runtime::"r""#),
                uid(&format!("Action::\"{family}\"")),
                uid(r#"Workload::"w""#),
                cedar_policy::Context::from_pairs(context(&facts, &Reads::all())).unwrap(),
                Some(&schema),
            )
            .unwrap();
        }
    }
}

#[test]
fn what_does_not_parse_or_validate_is_told_by_policy_line_and_column() {
    let syntax = invalid(&[("base", PERMIT), ("broken", "permit (principal,\n  action resource);")]);
    assert_eq!(syntax.policy.as_deref(), Some("broken"));
    assert_eq!(syntax.position, Some(SourcePosition { line: 2, column: 10 }));
    let unknown = "permit (principal, action, resource)\nwhen { context.colour == \"red\" };";
    let typed = invalid(&[("typo", unknown)]);
    assert_eq!(typed.policy.as_deref(), Some("typo"));
    assert_eq!(typed.position.map(|position| position.line), Some(2));
    assert!(typed.to_string().starts_with("typo:2:"), "{typed}");
    let unknown_action =
        invalid(&[("action", r#"permit (principal, action == Action::"deploy", resource);"#)]);
    assert_eq!(unknown_action.policy.as_deref(), Some("action"));
    // Strict validation: an optional attribute needs its `has`.
    assert!(
        invalid(&[("x", "permit (principal, action, resource) when { context.reference_set == \"a\" };")])
            .policy
            .is_some()
    );
}

#[test]
fn a_policy_of_an_engine_before_stays_in_force() {
    let lines = |text: &'static str| text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    let now: Vec<&str> = lines(SCHEMA).collect();
    let schemas = [
        include_str!("testdata/schema-of-engine-2.cedarschema"),
        include_str!("testdata/schema-of-engine-3.cedarschema"),
    ];
    assert_eq!(schemas.map(|schema| sha256(schema.as_bytes()).to_hex()), EARLIER_SCHEMAS);
    for schema in schemas {
        let mut earlier = document(&[("base", PERMIT)]);
        earlier.schema = schema.to_owned();
        let policy = CompiledPolicy::load(&earlier).unwrap();
        assert_eq!(*policy.digest(), earlier.digest());
        assert_eq!(ask(&policy, |_| {}), ask(&compiled(&[("base", PERMIT)]), |_| {}));
        // Nothing was taken away and no type changed: without comments, every line is still there.
        let gone: Vec<&str> = lines(schema).filter(|line| !now.contains(line)).collect();
        assert_eq!(gone, [""; 0]);
        earlier.schema.push('\n');
        assert!(CompiledPolicy::load(&earlier).is_err());
    }
}

/// Policies carry the schema, and decisions the engine's name: the schema doesn't change without the engine, and what was in force stays
/// loadable. Engine 5 has the schema of engine 4.
#[test]
fn a_schema_is_of_one_engine() {
    let known =
        ("countersign-decision-5", "8609e03cfb5a1996194d0392a0ef3f725860805a510af6fb446f817e1f181e05");
    let found = sha256(SCHEMA.as_bytes()).to_hex();
    assert_eq!(
        (crate::decide::ENGINE, found.as_str()),
        known,
        "another engine, and the schema before kept as an earlier one"
    );
}

#[test]
fn templates_foreign_schemas_and_impossible_settings_are_refused() {
    assert!(
        invalid(&[("t", "permit (principal == ?principal, action, resource);")])
            .message
            .contains("templates")
    );
    let mut other = document(&[]);
    other.schema.push('\n');
    assert!(CompiledPolicy::load(&other).unwrap_err().message.contains("schema"));
    let settings = |bank: u16, pcrs: &[u32]| {
        let mut document = document(&[]);
        (document.settings.bank, document.settings.pcrs) = (bank, pcrs.to_vec());
        CompiledPolicy::load(&document).unwrap_err().message
    };
    assert!(settings(4, &[0, 7]).contains("SHA-1"));
    assert!(settings(0x12, &[0, 7]).contains("bank"));
    assert!(settings(11, &[16]).contains("boot log"));
    assert!(settings(11, &[24]).contains("PCR selection"));
}

#[test]
fn identifiers_are_those_of_the_document_and_bounded() {
    let two = "permit (principal, action, resource);\nforbid (principal, action, resource) when { context.depth > 3 };";
    assert_eq!(ask(&compiled(&[("two", two)]), |_| {}), Verdict::Permitted(vec!["two#1".to_owned()]));
    assert!(invalid(&[("", two)]).message.contains("identifier"));
    assert!(invalid(&[("a#b", two)]).message.contains("identifier"));
    assert!(invalid(&[(&"x".repeat(128), two)]).message.contains("longer"));
    let many = "permit (principal, action, resource);\n".repeat(257);
    assert!(invalid(&[("many", &many)]).message.contains("256"));
    let clash =
        "@id(\"x\") permit (principal, action, resource);\n@id(\"x\") permit (principal, action, resource);";
    assert!(invalid(&[("clash", clash)]).message.contains('x'));
}

#[test]
fn the_cache_serves_a_digest_and_refuses_bytes_of_another() {
    let cache = PolicyCache::default();
    let document = document(&[("base", PERMIT)]);
    let digest = document.digest();
    assert!(cache.find(&digest).is_none());
    assert_eq!(cache.load(&Sha256Digest::ZERO, &document.encode()).unwrap_err(), PolicyUnavailable::Digest);
    let loaded = cache.load(&digest, &document.encode()).unwrap();
    assert!(Arc::ptr_eq(&loaded, &cache.find(&digest).unwrap()));
    for n in 0..4 {
        let other = super::tests::document(&[(
            "n",
            &format!("permit (principal, action, resource) when {{ context.depth == {n} }};"),
        )]);
        cache.load(&other.digest(), &other.encode()).unwrap();
    }
    assert!(cache.find(&digest).is_none(), "bounded");
    let bad = super::tests::document(&[("bad", "permit")]);
    assert!(matches!(cache.load(&bad.digest(), &bad.encode()), Err(PolicyUnavailable::Invalid(_))));
}
