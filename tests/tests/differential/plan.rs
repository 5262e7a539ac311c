//! A log as a plan: batches of entries and who signs their heads. Building it computes what follows from the leaves, whatever was altered in them:
//! names of leaves, control chain, three roots, the chain of `prev`, signatures.

use crate::dice::Dice;
use crate::item::Item;
use crate::keys::{self, HEAD_KEYS, RECOVERY};
use crate::text;
use countersign_core::bundle::{TrustBundle, statement_preimage};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::{ControlState, control_digest};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::{Leaf, leaf_hash};
use countersign_core::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

pub(crate) const ORIGIN: &str = "test.example/log";
const START_MS: u64 = 1_700_000_000_000;
const CONTROL: [u64; 6] = [5, 6, 7, 8, 9, 12];

/// What a body says.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Body(Item),
    /// An epoch leaf: the number is the next one, or off by so many.
    Epoch {
        digest: Vec<u8>,
        by: Vec<u8>,
        off: i128,
    },
    /// The recovery leaf of the trust bundle's first statement.
    Initial,
    /// The recovery leaf of a compromise.
    Compromise(Compromise),
}

/// That a key is compromised.
#[derive(Clone, Debug)]
pub(crate) struct Compromise {
    pub(crate) key: u8,
    /// The batch whose head is the last good one.
    pub(crate) good: usize,
    pub(crate) instead: Vec<u8>,
    /// By how much its number is off.
    pub(crate) off: i128,
}

/// A leaf to be.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: u64,
    pub(crate) content: Content,
    /// Its name in the unaltered log, by which other leaves name it.
    pub(crate) name: Option<(u64, Vec<u8>)>,
    /// Decides how the encoded leaf is altered.
    pub(crate) edit: Option<u64>,
}

impl Entry {
    pub(crate) const fn new(kind: u64, content: Content) -> Self {
        Self { kind, content, name: None, edit: None }
    }
}

/// Who signs a head.
#[derive(Clone, Debug)]
pub(crate) enum Signers {
    These(Vec<u8>),
    /// Whoever the control chain says, the old keys too after an activation.
    Due,
}

/// Leaves of one time, and their head.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) signers: Signers,
    pub(crate) step_ms: u64,
    /// How much later than its leaves the head is.
    pub(crate) head_later_ms: u64,
    /// A witness's line stands under it, too.
    pub(crate) cosigned: bool,
    /// Decides how the body is altered before it is signed.
    pub(crate) body_edit: Option<u64>,
    /// Decides how the note is altered after that.
    pub(crate) note_edit: Option<u64>,
}

impl Batch {
    pub(crate) const fn of(entries: Vec<Entry>) -> Self {
        Self {
            entries,
            signers: Signers::Due,
            step_ms: 1_000,
            head_later_ms: 0,
            cosigned: false,
            body_edit: None,
            note_edit: None,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The bundle's first statement, and how it is altered before it is signed.
    pub(crate) initial: Item,
    pub(crate) initial_edit: Option<u64>,
    pub(crate) batches: Vec<Batch>,
    /// How many later statements the trust bundle holds.
    pub(crate) pinned: usize,
    /// Leaves are altered after roots were computed and heads signed.
    pub(crate) stale: bool,
    /// The log ends after so many batches, while the trust bundle knows what is said later.
    pub(crate) cut: Option<usize>,
}

/// What came of it.
pub(crate) struct Built {
    pub(crate) bundle: Value,
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) heads: Vec<String>,
    /// Control leaves.
    pub(crate) control: Vec<Vec<u8>>,
    /// Which heads are the first signed ones after an activation of a head key.
    pub(crate) rotations: Vec<usize>,
}

struct Builder {
    leaves: Vec<Vec<u8>>,
    heads: Vec<String>,
    bodies: Vec<String>,
    control: Vec<Vec<u8>>,
    rotations: Vec<usize>,
    activated: bool,
    names: Vec<(u64, Vec<u8>, u64, Vec<u8>)>,
    trees: (Frontier<Sha256Tree>, Frontier<Sha3_512Tree>, Frontier<Blake2b512Tree>),
    digest: Sha256Digest,
    prev: Sha256Digest,
    state: ControlState,
    /// Keys active at the newest signed head.
    vouched: Vec<VerifyingKey>,
    time_ms: u64,
    epoch: i128,
    statements: Vec<(Vec<u8>, Vec<u8>)>,
    salt: u8,
}

fn signed_statement(bytes: &[u8]) -> Vec<u8> {
    keys::sign(RECOVERY, &statement_preimage(bytes)).to_vec()
}

fn bundle_of(statements: &[(Vec<u8>, Vec<u8>)]) -> Value {
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let statements: Vec<Value> = statements
        .iter()
        .map(|(statement, signature)| json!({ "statement": text(statement), "signature": text(signature) }))
        .collect();
    json!({
        "v": 1,
        "origin": ORIGIN,
        "trust_domain": "test.example",
        "recovery_key": { "alg": "EdDSA", "pub": text(keys::public(RECOVERY).raw()) },
        "statements": statements,
    })
}

impl Plan {
    pub(crate) fn build(&self) -> Built {
        let mut initial = self.initial.clone();
        if let Some(seed) = self.initial_edit {
            initial.alter(&mut Dice::new(seed));
        }
        let initial = initial.encode();
        let first = (initial.clone(), signed_statement(&initial));
        let trusted = TrustBundle::verify(bundle_of(std::slice::from_ref(&first)).to_string().as_bytes());
        let genesis = || ControlState::genesis(ORIGIN, keys::public(RECOVERY));
        let mut builder = Builder {
            leaves: Vec::new(),
            heads: Vec::new(),
            bodies: Vec::new(),
            control: Vec::new(),
            rotations: Vec::new(),
            activated: false,
            names: Vec::new(),
            trees: (Frontier::new(), Frontier::new(), Frontier::new()),
            digest: Sha256Digest::ZERO,
            prev: Sha256Digest::ZERO,
            vouched: trusted.as_ref().map(|bundle| bundle.head_keys().to_vec()).unwrap_or_default(),
            state: trusted.map_or_else(|_| genesis(), |bundle| ControlState::of_bundle(&bundle)),
            time_ms: START_MS,
            epoch: 0,
            statements: vec![first],
            salt: 0,
        };
        let (mut late, mut ends) = (Vec::new(), Vec::new());
        for batch in &self.batches {
            builder.batch(batch, if self.stale { Some(&mut late) } else { None });
            ends.push((builder.leaves.len(), builder.control.len()));
        }
        for (at, seed) in late {
            builder.leaves[at] = edited(&builder.leaves[at], seed);
        }
        if let Some(kept) = self.cut {
            let kept = kept.min(ends.len());
            builder.heads.truncate(kept);
            let (leaves, control) = kept.checked_sub(1).map_or((0, 0), |last| ends[last]);
            builder.leaves.truncate(leaves);
            builder.control.truncate(control);
            builder.rotations.retain(|head| *head < kept);
        }
        let pinned = builder.statements.len().min(1 + self.pinned);
        Built {
            bundle: bundle_of(&builder.statements[..pinned]),
            leaves: builder.leaves,
            heads: builder.heads,
            control: builder.control,
            rotations: builder.rotations,
        }
    }
}

fn edited(leaf: &[u8], seed: u64) -> Vec<u8> {
    let Some(mut item) = Item::decode(leaf) else { return leaf.to_vec() };
    item.alter(&mut Dice::new(seed));
    item.encode()
}

impl Builder {
    fn batch(&mut self, batch: &Batch, mut late: Option<&mut Vec<(usize, u64)>>) {
        self.time_ms = self.time_ms.saturating_add(batch.step_ms);
        for entry in &batch.entries {
            let mut bytes = self.leaf(entry);
            match (entry.edit, late.as_mut()) {
                (Some(seed), Some(late)) => late.push((self.leaves.len(), seed)),
                (Some(seed), None) => bytes = edited(&bytes, seed),
                _ => {}
            }
            self.take(entry, bytes);
        }
        self.head(batch);
    }

    fn leaf(&mut self, entry: &Entry) -> Vec<u8> {
        let body = match &entry.content {
            Content::Body(item) => {
                let mut item = item.clone();
                item.rename(&self.names);
                item.encode()
            }
            Content::Epoch { digest, by, off } => {
                self.epoch += 1;
                let number = Item::Int((self.epoch + off).max(0));
                let entries = [Item::Bytes(digest.clone()), number, Item::Bytes(by.clone())];
                Item::Map((1..).map(Item::Int).zip(entries).collect()).encode()
            }
            Content::Initial => record(&self.statements[0]),
            Content::Compromise(compromise) => self.compromise(compromise),
        };
        self.salt = self.salt.wrapping_add(1);
        let items = vec![
            Item::Int(1),
            Item::Int(i128::from(entry.kind)),
            Item::Int(self.leaves.len() as i128),
            Item::Int(i128::from(self.time_ms)),
            Item::Bytes(vec![self.salt; 16]),
            Item::Bytes(body),
        ];
        Item::Array(items).encode()
    }

    fn compromise(&mut self, compromise: &Compromise) -> Vec<u8> {
        let good = self.bodies.get(compromise.good).or(self.bodies.last()).cloned().unwrap_or_default();
        let key = |seed: &u8| Item::Bytes(keys::public(*seed).cose_key());
        let entries = [
            Item::Int((self.statements.len() as i128 + 1 + compromise.off).max(0)),
            Item::Text(ORIGIN.as_bytes().to_vec()),
            Item::Int(2),
            Item::Int(i128::from(self.time_ms)),
            key(&compromise.key),
            Item::Text(good.into_bytes()),
            Item::Array(compromise.instead.iter().map(key).collect()),
        ];
        let statement = Item::Map((1..).map(Item::Int).zip(entries).collect()).encode();
        let signed = (statement.clone(), signed_statement(&statement));
        self.statements.push(signed.clone());
        record(&signed)
    }

    fn take(&mut self, entry: &Entry, bytes: Vec<u8>) {
        let hash = leaf_hash(&bytes);
        let index = self.leaves.len() as u64;
        if let Some((old, was)) = &entry.name {
            self.names.push((*old, was.clone(), index, hash.as_bytes().to_vec()));
        }
        let kind = Leaf::parse(&bytes).map_or(entry.kind, |leaf| u64::from(leaf.kind.number()));
        if CONTROL.contains(&kind) {
            self.control.push(bytes.clone());
            self.digest = control_digest(&self.digest, self.control.len() as u64, &hash);
            let active = |state: &ControlState| -> usize {
                state.head_keys().iter().filter(|key| key.activated.is_some()).count()
            };
            let before = active(&self.state);
            // Whatever it refuses is for the two sides to refuse; here it only says who is due to sign.
            drop(self.state.apply(&bytes));
            self.activated |= active(&self.state) > before;
        }
        self.trees.0.append(hash, |_| {}).unwrap();
        self.trees.1.append(Sha3_512Tree::leaf_hash(&bytes), |_| {}).unwrap();
        self.trees.2.append(Blake2b512Tree::leaf_hash(&bytes), |_| {}).unwrap();
        self.leaves.push(bytes);
    }

    fn head(&mut self, batch: &Batch) {
        let mut body = HeadBody {
            origin: ORIGIN.to_owned(),
            size: self.leaves.len() as u64,
            sha256_root: self.trees.0.root(),
            sha3_root: self.trees.1.root(),
            blake2_root: self.trees.2.root(),
            time_ms: self.time_ms.saturating_add(batch.head_later_ms),
            prev: self.prev,
            control_seq: self.control.len() as u64,
            control_digest: self.digest,
        }
        .encode();
        if let Some(seed) = batch.body_edit {
            let mut dice = Dice::new(seed);
            let link = dice.percent(70);
            let altered = text::alter_body(&body, &mut dice);
            self.prev = sha256(if link { altered.as_bytes() } else { body.as_bytes() });
            body = altered;
        } else {
            self.prev = sha256(body.as_bytes());
        }
        let signers = match &batch.signers {
            Signers::These(seeds) => seeds.clone(),
            Signers::Due => self.due(),
        };
        if !signers.is_empty() {
            if std::mem::take(&mut self.activated) {
                self.rotations.push(self.heads.len());
            }
            self.vouched = self.state.head_keys_at(self.state.number()).cloned().collect();
        }
        let mut note = signed(&body, &signers);
        if batch.cosigned && !signers.is_empty() {
            note += &text::cosignature();
        }
        self.bodies.push(body);
        self.heads.push(match batch.note_edit {
            Some(seed) => text::alter_note(&note, &mut Dice::new(seed)),
            None => note,
        });
    }

    fn due(&self) -> Vec<u8> {
        let active: Vec<&VerifyingKey> = self.state.head_keys_at(self.state.number()).collect();
        let believed = self.state.still_believed(&self.vouched);
        let due = |seed: &u8| {
            let key = keys::public(*seed);
            active.contains(&&key) || believed.contains(&key)
        };
        HEAD_KEYS.into_iter().filter(due).collect()
    }
}

/// A recovery body.
fn record((statement, signature): &(Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let entries = [Item::Bytes(statement.clone()), Item::Bytes(signature.clone())];
    Item::Map((1..).map(Item::Int).zip(entries).collect()).encode()
}

/// A body under signatures, however malformed it is; bare if nobody signs.
pub(crate) fn signed(body: &str, signers: &[u8]) -> String {
    if signers.is_empty() {
        return body.to_owned();
    }
    let lines: String = signers.iter().map(|seed| keys::line(ORIGIN, *seed, body).format()).collect();
    format!("{body}\n{lines}")
}
