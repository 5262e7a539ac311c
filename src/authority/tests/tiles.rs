//! The tiles of a running authority, read by a client that knows C2SP tlog-tiles and RFC 9162 and nothing else of this code.
#[cfg(test)]
mod support;

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_authority::sequence::{Append, Entry};
use countersign_client::ClientIdentity;
use countersign_core::api::admin::Leaves;
use countersign_core::artifact::verify_note_with;
use countersign_core::checkpoint::HeadBody;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Role;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::note::SignedNote;
use countersign_core::tlog_proof::TlogProof;
use support::raw::{Fetched, Raw};
use support::{House, with_house};

type Hash = [u8; 32];

#[cfg(test)]
fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().unwrap()
}

#[cfg(test)]
fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// RFC 9162 §2.1.1 by its recursive definition.
#[cfg(test)]
fn tree_hash(hashes: &[Hash]) -> Hash {
    if hashes.len() == 1 {
        return hashes[0];
    }
    let split = hashes.len().next_power_of_two() / 2;
    node(&tree_hash(&hashes[..split]), &tree_hash(&hashes[split..]))
}

/// RFC 9162 §2.1.3.1 by its recursive definition, over hashes of perfect subtrees of one size.
#[cfg(test)]
fn path(at: usize, hashes: &[Hash]) -> Vec<Hash> {
    if hashes.len() == 1 {
        return Vec::new();
    }
    let split = hashes.len().next_power_of_two() / 2;
    let (left, right) = hashes.split_at(split);
    let (mut inner, beside) =
        if at < split { (path(at, left), right) } else { (path(at - split, right), left) };
    inner.push(tree_hash(beside));
    inner
}

/// C2SP tlog-tiles: the index in groups of three digits.
#[cfg(test)]
fn spelled(index: u64) -> String {
    let digits = index.to_string();
    let digits = format!("{digits:0>width$}", width = digits.len().div_ceil(3) * 3);
    let groups: Vec<&str> =
        digits.as_bytes().chunks(3).map(|group| std::str::from_utf8(group).unwrap()).collect();
    let (last, before) = groups.split_last().unwrap();
    before.iter().map(|group| format!("x{group}/")).collect::<String>() + last
}

/// A reader of tiles: takes the widths that a tree of its size has, and keeps what it got.
#[cfg(test)]
struct Reader {
    raw: Raw,
    held: HashMap<String, Vec<Hash>>,
}

#[cfg(test)]
impl Reader {
    async fn get(&mut self, path: &str) -> Fetched {
        self.raw.fetch(&format!("/v1/log/{path}")).await
    }

    /// The hashes of one tile in a tree of `size` leaves.
    async fn tile(&mut self, level: u32, index: u64, size: u64) -> Vec<Hash> {
        let width = ((size >> (8 * level)) - index * 256).min(256);
        let suffix = if width < 256 { format!(".p/{width}") } else { String::new() };
        let path = format!("tile/{level}/{}{suffix}", spelled(index));
        if let Some(held) = self.held.get(&path) {
            return held.clone();
        }
        let answer = self.get(&path).await;
        assert_eq!((answer.status, answer.kind.as_str()), (200, "application/octet-stream"), "{path}");
        assert!(answer.caching.contains("immutable") && answer.caching.contains("public"), "{path}");
        assert_eq!(answer.body.len() as u64, width * 32, "{path}");
        let hashes: Vec<Hash> = answer.body.chunks(32).map(|hash| hash.try_into().unwrap()).collect();
        self.held.insert(path, hashes.clone());
        hashes
    }

    /// The perfect subtrees at the right edge of a tree, the largest first: (height, root).
    async fn edge(&mut self, size: u64) -> Vec<(u32, Hash)> {
        let mut edge = Vec::new();
        for level in (0..8).rev() {
            let hashes = size >> (8 * level);
            if hashes.is_multiple_of(256) {
                continue;
            }
            let tile = self.tile(level, hashes / 256, size).await;
            let mut rest = tile.as_slice();
            for bit in (0..8).rev().filter(|bit| hashes >> bit & 1 == 1) {
                let (subtree, after) = rest.split_at(1 << bit);
                edge.push((8 * level + bit, tree_hash(subtree)));
                rest = after;
            }
        }
        edge
    }

    async fn root(&mut self, size: u64) -> Hash {
        let edge = self.edge(size).await;
        edge.iter().rev().map(|(_, hash)| *hash).reduce(|right, left| node(&left, &right)).unwrap()
    }

    /// The inclusion path of a leaf in a tree of `size` leaves.
    async fn inclusion(&mut self, index: u64, size: u64) -> Vec<Hash> {
        let edge = self.edge(size).await;
        let (mut start, mut at) = (0, 0);
        while index >= start + (1 << edge[at].0) {
            start += 1 << edge[at].0;
            at += 1;
        }
        let mut found = Vec::new();
        let (mut height, mut level) = (edge[at].0, 0);
        // Within the perfect subtree, eight levels a tile.
        while height > 0 {
            let tile = self.tile(level, index >> (8 * (level + 1)), size).await;
            let within = (index >> (8 * level)) as usize % 256;
            let span = 1 << height.min(8);
            let first = within / span * span;
            found.extend(path(within - first, &tile[first..first + span]));
            (height, level) = (height.saturating_sub(8), level + 1);
        }
        // Then what lies right of it, hashed together, and what lies left of it, the nearest first.
        let right =
            edge[at + 1..].iter().rev().map(|(_, hash)| *hash).reduce(|right, left| node(&left, &right));
        found.extend(right);
        found.extend(edge[..at].iter().rev().map(|(_, hash)| *hash));
        found
    }
}

#[cfg(test)]
async fn reader(house: &House, identity: &ClientIdentity) -> Reader {
    let raw = Raw::connect(house, house.serving.service_addr(), identity).await;
    Reader { raw, held: HashMap::new() }
}

/// Appends so many leaves, and returns a receipt of one among them.
#[cfg(test)]
async fn grow(house: &House, leaves: u64) -> TlogProof {
    let authority = house.serving.authority();
    let mut left = leaves;
    let mut last = None;
    while left > 0 {
        let mut pending = Vec::new();
        for _ in 0..13 {
            let count = left.min(320);
            left -= count;
            if count > 0 {
                let entry = Entry::plain(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode());
                let entries = vec![entry; usize::try_from(count).unwrap()];
                pending.push(authority.submit(Append::of(entries)).unwrap());
            }
        }
        for pending in pending {
            last = Some(authority.settled(pending).await.unwrap());
        }
    }
    let Some(countersign_authority::sequence::Outcome::Appended(receipts)) = last else {
        panic!("not appended")
    };
    let texts: Vec<String> = receipts.texts().collect();
    TlogProof::parse(&texts[texts.len() / 2]).unwrap()
}

#[cfg(test)]
fn body(note: &str) -> HeadBody {
    let text = note.split_once("\n\n").map_or_else(|| note.to_owned(), |(text, _)| format!("{text}\n"));
    HeadBody::parse(&text).unwrap()
}

#[test]
fn every_checkpoint_and_proof_follows_from_tiles_alone() {
    let quiet = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.source_tiles_per_sec = 10_000;
        options.limits.tiles_per_sec = 10_000;
    };
    with_house("every_checkpoint_and_proof_follows_from_tiles_alone", quiet, async |house| {
        let mut tiles = reader(&house, &ClientIdentity::Anonymous).await;
        let mut receipts = vec![grow(&house, 1).await];
        for leaves in [250, 7, 300, 1, 65_000, 700] {
            receipts.push(grow(&house, leaves).await);
        }
        // The checkpoint is signed, and nothing keeps it.
        let checkpoint = tiles.get("checkpoint").await;
        assert_eq!((checkpoint.status, checkpoint.caching.as_str()), (200, "no-store"));
        assert_eq!(checkpoint.kind, "text/plain; charset=utf-8");
        let checkpoint = String::from_utf8(checkpoint.body).unwrap();
        let note = SignedNote::parse(&checkpoint).unwrap();
        verify_note_with(&note, support::ORIGIN, house.bundle().head_keys()).unwrap();
        let newest = body(&checkpoint);
        assert!(newest.size > 66_000, "{}", newest.size);

        // Every head that was ever made, by the tiles of its own size.
        let mut from = 1;
        loop {
            let heads = house.admin().heads(from, 1_024).await.unwrap().heads;
            let Some(last) = heads.last() else { break };
            from = body(last).size + 1;
            for head in heads.iter().map(|head| body(head)).filter(|head| head.size <= newest.size) {
                assert_eq!(tiles.root(head.size).await, *head.sha256_root.as_bytes(), "size {}", head.size);
            }
        }
        // Every full tile is what the level above says it is.
        for index in 0..newest.size / 65_536 {
            let above = tiles.tile(2, 0, newest.size).await[usize::try_from(index).unwrap()];
            let tile = tiles.tile(1, index, newest.size).await;
            assert_eq!(tree_hash(&tile), above);
            for (offset, hash) in (0..).zip(tile) {
                assert_eq!(tree_hash(&tiles.tile(0, index * 256 + offset, newest.size).await), hash);
            }
        }
        // A proof from tiles is the served one.
        for receipt in &receipts {
            let size = body(&receipt.checkpoint).size;
            let served: Vec<Hash> = receipt.proof.iter().map(|hash| *hash.as_bytes()).collect();
            assert_eq!(tiles.inclusion(receipt.index, size).await, served, "{} of {size}", receipt.index);
        }

        // Entries are the exact leaves, for those who may read leaves.
        let mut viewer = reader(&house, &house.operator("viewer-1", Role::Viewer).await).await;
        for (index, width) in [(0, 256), (1, 256), (2, 3)] {
            let suffix = if width < 256 { format!(".p/{width}") } else { String::new() };
            let answer = viewer.get(&format!("tile/entries/{}{suffix}", spelled(index))).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.caching, "private, max-age=31536000, immutable");
            let Leaves { leaves, .. } = house.admin().leaves(index * 256, width).await.unwrap();
            let expected: Vec<u8> = leaves
                .iter()
                .flat_map(|leaf| [&u16::try_from(leaf.0.len()).unwrap().to_be_bytes()[..], &leaf.0].concat())
                .collect();
            assert_eq!(answer.body, expected);
            let level_0 = tiles.tile(0, index, newest.size).await;
            let hashed: Vec<Hash> = leaves.iter().map(|leaf| sha256(&[&[0], &leaf.0])).collect();
            assert_eq!(hashed, level_0[..hashed.len()]);
        }
        house.serving.stop().await;
    });
}

#[test]
fn what_is_no_tile_has_a_code_and_what_is_not_there_is_not_found() {
    let name = "what_is_no_tile_has_a_code_and_what_is_not_there_is_not_found";
    let quiet = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 3_600;
    with_house(name, quiet, async |house| {
        let viewer = house.operator("viewer-1", Role::Viewer).await;
        let mut raw = Raw::connect(&house, house.serving.service_addr(), &viewer).await;
        let size = house.service(ClientIdentity::Anonymous).readyz().await.unwrap().size;
        assert!((2..256).contains(&size), "{size}");
        let whole = format!("0/000.p/{size}");
        let beyond = format!("0/000.p/{}", size + 1);
        let cases = [
            (whole.as_str(), 200, None),
            ("0/000.p/1", 200, None),
            (beyond.as_str(), 404, Some("not-found")),
            ("0/000", 404, Some("not-found")),
            ("1/000.p/1", 404, Some("not-found")),
            ("8/000.p/1", 404, Some("not-found")),
            ("63/000.p/1", 404, Some("not-found")),
            ("0/x999/x999/x999/x999/x999/999.p/255", 404, Some("not-found")),
            ("64/000.p/1", 400, Some("tile-malformed")),
            ("0/000.p/256", 400, Some("tile-malformed")),
            ("0/000.p/0", 400, Some("tile-malformed")),
            ("0/000.p/01", 400, Some("tile-malformed")),
            ("00/000.p/1", 400, Some("tile-malformed")),
            ("0/x000/000.p/1", 400, Some("tile-malformed")),
            ("0/0.p/1", 400, Some("tile-malformed")),
            ("0/%30%30%30.p/1", 400, Some("tile-malformed")),
            ("0/000%2Ep/1", 400, Some("tile-malformed")),
            ("0//000.p/1", 400, Some("tile-malformed")),
            ("0/../0/000.p/1", 400, Some("tile-malformed")),
            ("0/000.p/1/", 400, Some("tile-malformed")),
            ("entries/000.p/1", 200, None),
            ("entries/000", 404, Some("not-found")),
            ("entries/0/000", 400, Some("tile-malformed")),
            ("entries/x000.p/1", 400, Some("tile-malformed")),
            ("0/000.p/1?width=9", 200, None),
        ];
        for (path, status, code) in cases {
            if status == 200 {
                assert_eq!(raw.fetch(&format!("/v1/log/tile/{path}")).await.status, 200, "{path}");
                continue;
            }
            let answer = raw.send("GET", &format!("/v1/log/tile/{path}"), b"").await;
            assert_eq!((answer.status, answer.code.as_deref()), (status, code), "{path}");
        }
        // Leaves may name people: hashes are for anyone, entries aren't.
        let mut anyone = Raw::connect(&house, house.serving.service_addr(), &ClientIdentity::Anonymous).await;
        assert_eq!(anyone.fetch("/v1/log/tile/0/000.p/1").await.status, 200);
        let answer = anyone.send("GET", "/v1/log/tile/entries/000.p/1", b"").await;
        assert_eq!(answer.code.as_deref(), Some("unauthenticated"));
        house.serving.stop().await;
    });
}

#[test]
fn a_reader_over_its_rate_is_told_so_and_takes_nothing_from_hosts() {
    let name = "a_reader_over_its_rate_is_told_so_and_takes_nothing_from_hosts";
    let slow = |options: &mut countersign_authority::init::InitOptions| {
        options.limits.source_tiles_per_sec = 1;
        options.limits.source_tiles_burst = 3;
    };
    with_house(name, slow, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let mut anyone = Raw::connect(&house, house.serving.service_addr(), &ClientIdentity::Anonymous).await;
        let mut refused = 0;
        for _ in 0..10 {
            // Malformed paths cost nothing, and take nothing.
            assert_eq!(anyone.send("GET", "/v1/log/tile/0/0", b"").await.status, 400);
            let answer = anyone.fetch("/v1/log/tile/0/000.p/1").await;
            assert!([200, 429].contains(&answer.status), "{}", answer.status);
            refused += u32::from(answer.status == 429);
        }
        assert!(refused >= 5, "{refused}");
        assert_eq!(host.artifacts(&["r1"]).await.unwrap().decisions[0].verdict, "allow");
        house.serving.stop().await;
    });
}
