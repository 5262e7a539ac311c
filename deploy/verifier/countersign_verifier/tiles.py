"""The log by its tiles (C2SP tlog-tiles, PROTOCOL §11.4): roots, inclusion paths and leaves, from static resources alone."""

from .hashing import TREES, leaf_hash, node_hash
from .refusal import Refused, demand

WIDTH = 256
HASH = 32


def spelled(index):
    """An index in groups of three digits, all but the last marked with `x`."""
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03}")
    return "/".join(groups)


def name(index, width):
    """`<N>[.p/<W>]`."""
    return spelled(index) if width == WIDTH else f"{spelled(index)}.p/{width}"


def tree_hash(hashes):
    """RFC 6962 §2.1 over hashes of perfect subtrees of one size."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return node_hash(tree_hash(hashes[:split]), tree_hash(hashes[split:]))


def tree_path(at, hashes):
    """RFC 6962 §2.1.1: the path of one of the hashes."""
    if len(hashes) == 1:
        return []
    split = 1 << (len(hashes) - 1).bit_length() - 1
    if at < split:
        return tree_path(at, hashes[:split]) + [tree_hash(hashes[split:])]
    return tree_path(at - split, hashes[split:]) + [tree_hash(hashes[:split])]


class Tiles:
    """The tiles of a log of one size. `fetch` gives the bytes of a path below the log's prefix."""

    def __init__(self, fetch, size):
        self.fetch, self.size, self.fetched, self.held = fetch, size, 0, {}

    def widths(self, level):
        """The tiles of a level, left to right, as (index, width)."""
        hashes = self.size >> 8 * level
        for index in range(hashes // WIDTH):
            yield index, WIDTH
        if hashes % WIDTH:
            yield hashes // WIDTH, hashes % WIDTH

    def tile(self, level, index):
        """The hashes of one tile."""
        width = min((self.size >> 8 * level) - index * WIDTH, WIDTH)
        if (level, index) not in self.held:
            data = self.fetch(f"tile/{level}/{name(index, width)}")
            demand(len(data) == width * HASH, "tile-malformed", f"tile {level}/{index} isn't of {width} hashes")
            self.fetched += 1
            # The lowest tiles are as many as the log is long: they are looked at once.
            if level:
                self.held[level, index] = [data[at:at + HASH] for at in range(0, len(data), HASH)]
            else:
                return [data[at:at + HASH] for at in range(0, len(data), HASH)]
        return self.held[level, index]

    def edge(self):
        """The perfect subtrees of the tree, largest first, as (height, root)."""
        for level in range(7, -1, -1):
            hashes = self.size >> 8 * level
            if hashes % WIDTH:
                rest = self.tile(level, hashes // WIDTH)
                for bit in range(7, -1, -1):
                    if hashes >> bit & 1:
                        yield 8 * level + bit, tree_hash(rest[:1 << bit])
                        rest = rest[1 << bit:]

    def root(self):
        """The root, from the tiles at the right edge."""
        node = None
        for _, subtree in reversed(list(self.edge())):
            node = subtree if node is None else node_hash(subtree, node)
        return TREES["sha-256"](b"").digest() if node is None else node

    def path(self, leaf):
        """The inclusion path of a leaf."""
        edge, at, start = list(self.edge()), 0, 0
        while leaf >= start + (1 << edge[at][0]):
            start += 1 << edge[at][0]
            at += 1
        path, height, level = [], edge[at][0], 0
        while height > 0:
            tile, within = self.tile(level, leaf >> 8 * (level + 1)), (leaf >> 8 * level) % WIDTH
            span = 1 << min(height, 8)
            first = within // span * span
            path += tree_path(within - first, tile[first:first + span])
            height, level = max(height - 8, 0), level + 1
        right = None
        for _, subtree in reversed(edge[at + 1:]):
            right = subtree if right is None else node_hash(subtree, right)
        return path + ([] if right is None else [right]) + [subtree for _, subtree in reversed(edge[:at])]

    def check(self, root, entries=False):
        """Refuses unless all tiles of all levels agree with each other and lead to the root, and, if asked, the entries to the lowest tiles."""
        demand(self.root() == root, "head-mismatch", "the tiles at the right edge don't lead to the root of the checkpoint")
        for level in range(8):
            for index, width in self.widths(level):
                tile = self.tile(level, index)
                if width == WIDTH:
                    above = self.tile(level + 1, index // WIDTH)[index % WIDTH]
                    demand(tree_hash(tile) == above, "head-mismatch", f"tile {level}/{index} isn't what the level above says")
                if entries and level == 0:
                    found = [leaf_hash(entry) for entry in self.entries(index, width)]
                    demand(found == tile, "head-mismatch", f"entry bundle {index} isn't what is hashed into the tree")

    def entries(self, index, width):
        """The entries of one bundle."""
        data, at, found = self.fetch(f"tile/entries/{name(index, width)}"), 0, []
        while at < len(data):
            length = int.from_bytes(data[at:at + 2], "big")
            demand(at + 2 + length <= len(data), "tile-malformed", f"entry bundle {index} ends early")
            found.append(data[at + 2:at + 2 + length])
            at += 2 + length
        demand(len(found) == width, "tile-malformed", f"entry bundle {index} isn't of {width} entries")
        return found


def check_receipt_path(fetch, index, size, root, path):
    """Refuses unless the tiles of this size give the root and the inclusion path that a receipt has."""
    tiles = Tiles(fetch, size)
    demand(tiles.root() == root, "head-mismatch", "the tiles don't lead to the root of the receipt's head")
    if tiles.path(index) != path:
        raise Refused("inclusion-invalid", "the path in the receipt isn't the one of the tiles")
