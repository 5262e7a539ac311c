//! A case from a seed: a good log with one or two things about it altered, or a part of one.

use crate::bases::Base;
use crate::dice::Dice;
use crate::entries;
use crate::item::Item;
use crate::plan::{Batch, Built, Content, Plan, Signers};
use crate::text::{alter_json, alter_note, alter_receipt};
use countersign_core::leaf::leaf_hash;
use countersign_core::merkle::{Sha256Tree, TreeHash, root_of_leaf_hashes};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

/// What both sides are asked about.
#[derive(Clone, Debug)]
pub(crate) enum Case {
    Log { bundle: String, export: Vec<u8> },
    Leaf(Vec<u8>),
    Head { bundle: String, control: Vec<Vec<u8>>, text: String },
    Receipt { bundle: String, control: Vec<Vec<u8>>, text: String },
    Bundle(String),
    Feed { bundle: String, page: String },
    Inputs(Vec<u8>),
    Evidence(Vec<u8>),
}

impl Case {
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Log { .. } => "log",
            Self::Leaf(_) => "leaf",
            Self::Head { .. } => "head",
            Self::Receipt { .. } => "receipt",
            Self::Bundle(_) => "bundle",
            Self::Feed { .. } => "feed",
            Self::Inputs(_) => "inputs",
            Self::Evidence(_) => "evidence",
        }
    }
}

/// Where alterations come from.
pub(crate) struct Source {
    pub(crate) bases: Vec<Base>,
    pub(crate) built: Vec<Built>,
    pub(crate) inputs: Vec<u8>,
    pub(crate) evidence: Vec<u8>,
}

impl Source {
    pub(crate) fn case(&self, seed: u64) -> Case {
        let mut dice = Dice::new(seed);
        let which = dice.below(self.bases.len());
        let base = &self.bases[which];
        match dice.below(16) {
            0..7 => {
                let plan = altered_plan(base, &mut dice);
                log_case(&plan.build(), &mut dice)
            }
            7..10 => Case::Leaf(altered_item(&dice.one(&self.built[which].leaves), &mut dice)),
            10 => {
                let plan = altered_plan(base, &mut dice);
                feed_case(&plan.build(), &mut dice)
            }
            11 | 12 => self.receipt(which, &mut dice),
            13 => self.head(which, &mut dice),
            14 => self.bundle(base, &mut dice),
            _ if dice.percent(50) => Case::Inputs(altered_item(&self.inputs, &mut dice)),
            _ => Case::Evidence(altered_item(&self.evidence, &mut dice)),
        }
    }

    fn given(&self, which: usize, dice: &mut Dice) -> Option<Built> {
        dice.percent(60).then(|| altered_plan(&self.bases[which], dice).build())
    }

    fn receipt(&self, which: usize, dice: &mut Dice) -> Case {
        let own = self.given(which, dice);
        let built = own.as_ref().unwrap_or(&self.built[which]);
        let mut text = receipt_of(built, dice);
        if dice.percent(if own.is_some() { 30 } else { 90 }) {
            text = alter_receipt(&text, dice);
        }
        Case::Receipt { bundle: built.bundle.to_string(), control: built.control.clone(), text }
    }

    fn head(&self, which: usize, dice: &mut Dice) -> Case {
        let own = self.given(which, dice);
        let built = own.as_ref().unwrap_or(&self.built[which]);
        let mut text = dice.one(&built.heads);
        if dice.percent(if own.is_some() { 30 } else { 90 }) {
            text = alter_note(&text, dice);
        }
        Case::Head { bundle: built.bundle.to_string(), control: built.control.clone(), text }
    }

    fn bundle(&self, base: &Base, dice: &mut Dice) -> Case {
        let mut plan = base.plan.clone();
        if dice.percent(60) {
            plan.initial_edit = Some(dice.next());
        }
        if dice.percent(30) {
            let (good, instead) = (dice.below(20), [dice.one(&crate::keys::HEAD_KEYS)]);
            let entry = entries::compromise(dice.one(&crate::keys::HEAD_KEYS), good, &instead);
            plan.batches
                .push(Batch { body_edit: dice.percent(30).then(|| dice.next()), ..Batch::of(vec![entry]) });
            plan.pinned = 2;
        }
        let text = plan.build().bundle.to_string();
        Case::Bundle(if dice.percent(50) { alter_json(&text, dice) } else { text })
    }
}

fn altered_item(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut item = Item::decode(bytes).unwrap();
    // The body of a leaf is where most of it is.
    if let Item::Array(items) = &mut item
        && items.len() == 6
        && dice.percent(90)
    {
        items[5].alter(dice);
    } else {
        item.alter(dice);
    }
    if dice.percent(10) {
        let mut again = item.clone();
        again.alter(dice);
        return again.encode();
    }
    item.encode()
}

/// One or two alterations of the plan, made before everything is computed and signed.
pub(crate) fn altered_plan(base: &Base, dice: &mut Dice) -> Plan {
    let mut plan = base.plan.clone();
    plan.stale = dice.percent(4);
    if dice.percent(50) {
        plan.batches.iter_mut().for_each(|batch| {
            if !matches!(&batch.signers, Signers::These(seeds) if seeds.is_empty()) {
                batch.signers = Signers::Due;
            }
        });
    }
    // Shorter logs: most of what is to be found is at their end.
    if dice.percent(30) {
        let keep = 1 + dice.below(plan.batches.len());
        plan.batches.truncate(keep);
    }
    for _ in 0..dice.one(&[1, 1, 2, 2, 3, 5]) {
        alter_plan(&mut plan, base, dice);
    }
    plan
}

fn alter_plan(plan: &mut Plan, base: &Base, dice: &mut Dice) {
    let at = dice.below(plan.batches.len());
    let entries = plan.batches[at].entries.len();
    match dice.below(26) {
        0..4 => edit_entry(plan, at, dice),
        4..13 => insert(plan, base, dice),
        13 if entries > 1 => {
            let (one, other) = (dice.below(entries), dice.below(entries));
            plan.batches[at].entries.swap(one, other);
        }
        14 if entries > 1 => drop(plan.batches[at].entries.remove(dice.below(entries))),
        15 if plan.batches.len() > 1 => drop(plan.batches.remove(at)),
        16 => {
            let other = dice.below(plan.batches.len());
            plan.batches.swap(at, other);
        }
        17 => {
            let again = plan.batches[at].clone();
            plan.batches.insert(at + 1, again);
        }
        18 => plan.batches[at].body_edit = Some(dice.next()),
        19 => plan.batches[at].note_edit = Some(dice.next()),
        20 => {
            let some = dice.below(3);
            let seeds = (0..some).map(|_| dice.one(&crate::keys::HEAD_KEYS)).collect();
            plan.batches[at].signers = Signers::These(seeds);
        }
        21 => plan.batches[at].signers = Signers::These(Vec::new()),
        22 => {
            let steps = [0, 1, 1_000, 59_000, 60_000, 61_001, 3_600_000, 86_400_000, 1 << 40, 1 << 62];
            plan.batches[at].step_ms = dice.one(&steps);
        }
        23 => plan.pinned = dice.below(3),
        24 if dice.percent(20) => {
            plan.pinned = 2;
            plan.cut = Some(at + 1);
        }
        24 if dice.percent(20) => plan.batches[at].head_later_ms = dice.one(&[1, 2_000]),
        24 if dice.percent(30) => plan.initial_edit = Some(dice.next()),
        // Two batches under one head.
        _ if at + 1 < plan.batches.len() => {
            let next = plan.batches.remove(at + 1);
            let batch = &mut plan.batches[at];
            batch.entries.extend(next.entries);
            batch.signers = next.signers;
        }
        _ => edit_entry(plan, at, dice),
    }
}

fn edit_entry(plan: &mut Plan, at: usize, dice: &mut Dice) {
    let batch = &mut plan.batches[at];
    let which = dice.below(batch.entries.len());
    let Some(entry) = batch.entries.get_mut(which) else { return };
    match dice.below(4) {
        // The body of another leaf, or of another kind.
        0 if dice.percent(30) => entry.kind = dice.next() % 16,
        1 => {
            if let Content::Body(item) = &mut entry.content {
                item.alter(dice);
            }
        }
        2 => {
            if let Content::Compromise(found) = &mut entry.content {
                found.good = dice.below(at + 1);
                found.instead = (0..dice.below(3)).map(|_| dice.one(&crate::keys::HEAD_KEYS)).collect();
            } else {
                entry.edit = Some(dice.next());
            }
        }
        _ => entry.edit = Some(dice.next()),
    }
}

fn insert(plan: &mut Plan, base: &Base, dice: &mut Dice) {
    // Near the end more often: what comes before has to stay good for it to be reached.
    let at = plan.batches.len() - if dice.percent(60) { 0 } else { dice.below(plan.batches.len()) };
    let near_ms = 1_700_000_000_000 + 1_000 * at as u64;
    let entry = entries::random(dice, &base.names, near_ms, at);
    let alone = dice.percent(70);
    match plan.batches.get_mut(at) {
        Some(batch) if !alone => {
            let place = dice.below(batch.entries.len() + 1);
            batch.entries.insert(place, entry);
        }
        _ => {
            let mut batch = Batch::of(vec![entry]);
            if dice.percent(10) {
                batch.signers = Signers::These(Vec::new());
            }
            plan.batches.insert(at, batch);
        }
    }
}

/// An export, its pages cut in any way.
pub(crate) fn log_case(built: &Built, dice: &mut Dice) -> Case {
    let mut lines = Vec::new();
    let per_page = 1 + dice.below(12);
    let mut from = 0;
    for page in built.leaves.chunks(per_page) {
        let leaves: Vec<String> = page.iter().map(|leaf| BASE64URL_NOPAD.encode(leaf)).collect();
        lines.push(json!({ "from": from, "leaves": leaves }).to_string());
        from += page.len();
    }
    for page in built.heads.chunks(per_page) {
        let place = dice.below(lines.len() + 1);
        // Heads keep their order: each page behind the one before.
        let place = if dice.percent(50) { lines.len() } else { place.max(last_heads(&lines)) };
        lines.insert(place, json!({ "heads": page }).to_string());
    }
    if dice.percent(8) {
        alter_pages(&mut lines, dice);
    }
    let end = if dice.percent(95) { "\n" } else { "" };
    let export = (lines.join("\n") + end).into_bytes();
    let bundle = built.bundle.to_string();
    Case::Log { bundle: if dice.percent(2) { alter_json(&bundle, dice) } else { bundle }, export }
}

fn last_heads(lines: &[String]) -> usize {
    lines.iter().rposition(|line| line.starts_with("{\"heads\"")).map_or(0, |at| at + 1)
}

fn alter_pages(lines: &mut Vec<String>, dice: &mut Dice) {
    let at = dice.below(lines.len());
    match dice.below(8) {
        0 => lines.insert(at, String::new()),
        1 => lines.insert(at, "{\"heads\":[]}".to_owned()),
        2 => lines.insert(at, format!("{{\"from\":{},\"leaves\":[]}}", dice.below(9))),
        3 => {
            let other = dice.below(lines.len());
            lines.swap(at, other);
        }
        4 => drop(lines.remove(at)),
        5 => lines.insert(at, lines[at].clone()),
        _ => lines[at] = alter_json(&lines[at], dice),
    }
}

/// RFC 9162 §2.1.3.1.
fn path(index: usize, hashes: &[<Sha256Tree as TreeHash>::Digest]) -> Vec<<Sha256Tree as TreeHash>::Digest> {
    if hashes.len() < 2 {
        return Vec::new();
    }
    let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
    let (mut found, other) = if index < left.len() {
        (path(index, left), root_of_leaf_hashes::<Sha256Tree>(right))
    } else {
        (path(index - left.len(), right), root_of_leaf_hashes::<Sha256Tree>(left))
    };
    found.push(other);
    found
}

fn size_of(head: &str) -> usize {
    head.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

/// A receipt of some leaf under some head that covers it.
pub(crate) fn receipt_of(built: &Built, dice: &mut Dice) -> String {
    let index = dice.below(built.leaves.len());
    let covering: Vec<&String> = built.heads.iter().filter(|head| size_of(head) > index).collect();
    let Some(head) = covering.get(dice.below(covering.len().max(1))) else { return String::new() };
    let hashes: Vec<_> = built.leaves.iter().take(size_of(head)).map(|leaf| leaf_hash(leaf)).collect();
    let extra = BASE64.encode(&built.leaves[index]);
    let path: String =
        path(index, &hashes).iter().map(|hash| BASE64.encode(hash.as_bytes()) + "\n").collect();
    format!("c2sp.org/tlog-proof@v1\nextra {extra}\nindex {index}\n{path}\n{head}")
}

/// A pull from nothing, in one page.
pub(crate) fn feed_case(built: &Built, dice: &mut Dice) -> Case {
    let control: Vec<String> = built.control.iter().map(|leaf| BASE64URL_NOPAD.encode(leaf)).collect();
    let signed = |at: &usize| built.heads[*at].contains("\n\n");
    let newest = (0..built.heads.len()).rev().find(signed).unwrap_or(0);
    let mut rotations: Vec<Value> = built.rotations.iter().map(|at| json!(built.heads[*at])).collect();
    let mut feed =
        json!({ "consistency": [], "control": control, "head": built.heads[newest], "more": false });
    if dice.percent(20) && !rotations.is_empty() {
        let at = dice.below(rotations.len());
        match dice.below(5) {
            0 => drop(rotations.remove(at)),
            1 => rotations.insert(at, rotations[at].clone()),
            2 => rotations.reverse(),
            3 => rotations.push(json!(dice.one(&built.heads))),
            _ => rotations[at] = json!(dice.one(&built.heads)),
        }
    }
    if !rotations.is_empty() || dice.percent(50) {
        feed["rotations"] = json!(rotations);
    }
    if dice.percent(15) {
        alter_feed(&mut feed, built, dice);
    }
    let text = feed.to_string();
    let page = if dice.percent(10) { alter_json(&text, dice) } else { text };
    Case::Feed { bundle: built.bundle.to_string(), page }
}

fn alter_feed(feed: &mut Value, built: &Built, dice: &mut Dice) {
    let control = feed["control"].as_array().cloned().unwrap_or_default();
    let mut control = control;
    let at = dice.below(control.len().max(1));
    match dice.below(7) {
        0 if !control.is_empty() => drop(control.remove(at)),
        1 if !control.is_empty() => control.insert(at, control[at].clone()),
        2 if !control.is_empty() => control.swap(0, at),
        3 => control.push(json!(BASE64URL_NOPAD.encode(&dice.one(&built.leaves)))),
        4 => feed["consistency"] = json!([dice.one(&["00".repeat(32), "0".to_owned(), "AA".repeat(32)])]),
        5 => feed["more"] = json!(true),
        _ => feed["head"] = json!(dice.one(&built.heads)),
    }
    feed["control"] = json!(control);
}
