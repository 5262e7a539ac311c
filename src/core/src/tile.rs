//! Names of tiles (C2SP tlog-tiles, PROTOCOL §11.4): which part of the SHA-256 tree, or of the leaves, a path means.
//!
//! In: the part of a path behind `tile/` or `tile/entries/`. Out: a level, an index and a width. Refused: every spelling but the one that
//! [`TileId::path`] gives, so that one tile has one address and caches hold it once.

use std::fmt;

/// Hashes of a full tile, and leaves of a full entry bundle (C2SP tlog-tiles, "Merkle Tree").
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree that one level of tiles spans.
pub const TILE_HEIGHT: u8 = 8;
/// Highest level that a path may name.
pub const MAX_TILE_LEVEL: u8 = 63;
/// Most groups of three digits: six hold every index that a tree of 2^63 leaves has.
const MAX_GROUPS: usize = 6;

/// A path that names no tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path isn't <level>/<index>[.p/<width>] in the spelling of C2SP tlog-tiles")]
pub struct TileMalformed;

/// A tile of hashes, or an entry bundle, whether it exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileId {
    index: u64,
    /// Below [`TILE_WIDTH`] for a partial one.
    width: u64,
}

impl TileId {
    /// The tile of this index, cut to `width` of its 256 elements; `None` if no tile has that width.
    #[must_use]
    pub fn new(index: u64, width: u64) -> Option<Self> {
        (1..=TILE_WIDTH).contains(&width).then_some(Self { index, width })
    }

    /// Reads `<N>[.p/<W>]`.
    ///
    /// # Errors
    /// [`TileMalformed`].
    pub fn parse(path: &str) -> Result<Self, TileMalformed> {
        let (number, width) = match path.split_once(".p/") {
            None => (path, TILE_WIDTH),
            Some((number, width)) => (number, decimal(width, 3).ok_or(TileMalformed)?),
        };
        let mut index = 0_u64;
        let groups: Vec<&str> = number.split('/').take(MAX_GROUPS + 1).collect();
        if groups.len() > MAX_GROUPS {
            return Err(TileMalformed);
        }
        for group in &groups {
            let digits = group.strip_prefix('x').unwrap_or(group);
            if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(TileMalformed);
            }
            index = index * 1_000 + digits.parse::<u64>().map_err(|_| TileMalformed)?;
        }
        let id = Self { index, width };
        // C2SP tlog-tiles, "Merkle Tree": no width of 0, none of 256 behind `.p/`, `x` on all groups but the last, no group of zeros before.
        let partial = path.contains(".p/");
        let fits = (1..=TILE_WIDTH).contains(&width) && partial == id.is_partial();
        if fits && id.path() == path { Ok(id) } else { Err(TileMalformed) }
    }

    /// Index within its level.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Number of its elements.
    #[must_use]
    pub const fn width(&self) -> u64 {
        self.width
    }

    /// Whether it has fewer elements than a full one.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.width < TILE_WIDTH
    }

    /// Index of its first element within its level of hashes, or among the leaves.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.index.saturating_mul(TILE_WIDTH)
    }

    /// Whether all its elements are among the first `available` of its level.
    #[must_use]
    pub fn is_within(&self, available: u64) -> bool {
        let end = self.index.checked_mul(TILE_WIDTH).and_then(|first| first.checked_add(self.width));
        end.is_some_and(|end| end <= available)
    }

    /// Its path: `<N>[.p/<W>]`.
    #[must_use]
    pub fn path(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups = Vec::new();
        let mut rest = self.index;
        loop {
            groups.push(rest % 1_000);
            rest /= 1_000;
            if rest == 0 {
                break;
            }
        }
        while groups.len() > 1 {
            write!(f, "x{:03}/", groups.pop().unwrap_or_default())?;
        }
        write!(f, "{:03}", groups.pop().unwrap_or_default())?;
        if self.is_partial() { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// Reads `<L>/<N>[.p/<W>]`: level and tile.
///
/// # Errors
/// [`TileMalformed`].
pub fn parse_tile(path: &str) -> Result<(u8, TileId), TileMalformed> {
    let (level, rest) = path.split_once('/').ok_or(TileMalformed)?;
    let level = decimal(level, 2).and_then(|level| u8::try_from(level).ok()).ok_or(TileMalformed)?;
    if level > MAX_TILE_LEVEL {
        return Err(TileMalformed);
    }
    Ok((level, TileId::parse(rest)?))
}

/// How many hashes the level has in a tree of `size` leaves: perfect subtrees of 256^level leaves.
#[must_use]
pub fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0)
}

/// A decimal of at most so many digits, without leading zeros.
fn decimal(text: &str, digits: usize) -> Option<u64> {
    let good = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if good && canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_one_spelling() {
        let good = [
            ("000", 0, 256),
            ("001", 1, 256),
            ("999", 999, 256),
            ("x001/000", 1_000, 256),
            ("x001/x234/067", 1_234_067, 256),
            ("x001/x234/067.p/1", 1_234_067, 1),
            ("273.p/112", 273, 112),
            ("000.p/255", 0, 255),
            ("x999/x999/x999/x999/x999/999", 999_999_999_999_999_999, 256),
        ];
        for (path, index, width) in good {
            let id = TileId::parse(path).unwrap();
            assert_eq!((id.index(), id.width(), id.path().as_str()), (index, width, path));
            assert_eq!(TileId::new(index, width), Some(id));
        }
        let bad = [
            "",
            "0",
            "00",
            "0000",
            "x000",
            "x001",
            "001/002",
            "x000/001",
            "x1/002",
            "x001/x002",
            "x001//002",
            "/001",
            "001/",
            "001.p",
            "001.p/",
            "001.p/0",
            "001.p/01",
            "001.p/256",
            "001.p/1000",
            "001.p/1/",
            "001.p/+1",
            "001.p/1.p/1",
            "001.P/1",
            "X001/000",
            "-01",
            "+01",
            " 01",
            "0x1",
            "%30%30%30",
            "001%2ep/1",
            "x001/000 ",
            "x001\\000",
            "../000",
            "٠٠٠",
            "x001/x000/x000/x000/x000/x000/000",
            "x999/x999/x999/x999/x999/x999/999",
        ];
        for path in bad {
            assert_eq!(TileId::parse(path), Err(TileMalformed), "{path}");
        }
        assert_eq!(TileId::new(0, 0), None);
        assert_eq!(TileId::new(0, 257), None);
    }

    #[test]
    fn a_level_has_one_spelling_and_ends_at_63() {
        assert_eq!(parse_tile("0/000").unwrap().0, 0);
        assert_eq!(parse_tile("63/x001/000.p/7").unwrap(), (63, TileId::new(1_000, 7).unwrap()));
        for path in [
            "64/000",
            "00/000",
            "01/000",
            "-1/000",
            "256/000",
            "/000",
            "0",
            "entries/000",
            "0//000",
            "0/0/000",
        ] {
            assert_eq!(parse_tile(path), Err(TileMalformed), "{path}");
        }
    }

    /// The example of C2SP tlog-tiles, "Partial Tiles".
    #[test]
    fn the_specifications_example_of_70_000_leaves() {
        let widths = [(0, 70_000), (1, 273), (2, 1), (3, 0), (8, 0), (63, 0)];
        for (level, hashes) in widths {
            assert_eq!(hashes_at(level, 70_000), hashes, "level {level}");
        }
        assert!(TileId::new(272, 256).unwrap().is_within(70_000));
        assert!(TileId::new(273, 112).unwrap().is_within(70_000));
        assert!(!TileId::new(273, 113).unwrap().is_within(70_000));
        assert!(!TileId::new(u64::MAX, 1).unwrap().is_within(u64::MAX));
        assert_eq!((hashes_at(0, 256), hashes_at(1, 256)), (256, 1));
    }
}
