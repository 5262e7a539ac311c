"""Where inputs come from: files of bounded size, exports (PROTOCOL §11.3), and the API of a running authority (§11)."""

import http.client
import json
import re
import ssl
import urllib.parse
from pathlib import Path

from . import strictjson
from .head import parse_head_or_body
from .refusal import Refused, demand

# A page of 8 MiB of leaves takes a third more as base64.
MAX_PAGE = 16 << 20
PAGE = 1024
ADDRESS = re.compile(r"https://([^/:\[\]]+|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?/?")


def read_file(path, most):
    """A file's bytes."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise Refused("file-unreadable", f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None
    demand(len(data) <= most, "too-large", f"{path} has more than {most} bytes")
    return data


class Export:
    """An export: one page of the API a line."""

    def __init__(self, path):
        self.path = path

    def _pages(self):
        try:
            with Path(self.path).open("rb") as file:
                while line := file.readline(MAX_PAGE + 2):
                    demand(len(line) <= MAX_PAGE + 1, "too-large", f"{self.path}: a line of more than {MAX_PAGE} bytes")
                    yield strictjson.parse(line)
        except OSError as error:
            raise Refused("file-unreadable", f"{self.path}: {error.strerror}") from None

    def leaves(self):
        """The leaves' bytes, in order."""
        expected = 0
        for page in self._pages():
            if isinstance(page, dict) and "leaves" in page:
                for leaf in leaves_of(page, expected):
                    yield leaf
                    expected += 1
            else:
                heads_of(page)

    def heads(self):
        """The heads, in order."""
        for page in self._pages():
            if isinstance(page, dict) and "heads" in page:
                yield from heads_of(page)


def leaves_of(page, expected):
    """The leaves of a page that begins at the expected index."""
    code = "export-malformed"
    strictjson.members(page, ("from", "leaves"), code=code, what="a page")
    strictjson.integer(page["from"], code=code, what="from")
    demand(page["from"] == expected, "index-mismatch", f"a page from {page['from']} where {expected} was to follow")
    demand(isinstance(page["leaves"], list) and len(page["leaves"]) <= PAGE, code, f"a page has at most {PAGE} leaves")
    return [strictjson.base64url(text, code, "a leaf") for text in page["leaves"]]


def heads_of(page):
    """The heads of a page."""
    code = "export-malformed"
    strictjson.members(page, ("heads",), code=code, what="a page")
    demand(isinstance(page["heads"], list) and len(page["heads"]) <= PAGE, code, f"a page has at most {PAGE} heads")
    demand(all(isinstance(text, str) for text in page["heads"]), code, "a head isn't text")
    return [parse_head_or_body(text.encode("utf-8", "surrogatepass")) for text in page["heads"]]


class Authority:
    """A running authority, over TLS under the CA of the trust bundle, with a client certificate if one is given."""

    def __init__(self, address, bundle, certificate=None, key=None):
        match = ADDRESS.fullmatch(address)
        demand(match is not None and int(match[2] or 443) < 65536, "authority-unreachable", "an address is https://host:port")
        self.host, self.port = match[1].strip("[]"), int(match[2] or 443)
        self.context = ssl.create_default_context()
        self.context.load_verify_locations(cadata="".join(ssl.DER_cert_to_PEM_cert(der) for der in bundle.ca_certificates))
        try:
            if certificate is not None:
                self.context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise Refused("file-unreadable", f"client certificate or key: {error}") from None
        self.connection = None

    def ask(self, path, **query):
        """The answer to a GET; a problem is a refusal."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(self.host, self.port, timeout=60, context=self.context)
            self.connection.request("GET", path)
            response = self.connection.getresponse()
            data = response.read(MAX_PAGE + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Refused("authority-unreachable", f"{path}: {error}") from None
        demand(len(data) <= MAX_PAGE, "too-large", f"{path}: an answer of more than {MAX_PAGE} bytes")
        demand(response.status == 200, "authority-unreachable", f"{path}: status {response.status}: {data[:200]!r}")
        return data

    def leaf_pages(self, below):
        """Pages of the leaves below an index as they come, each with its leaves."""
        at = 0
        while at < below:
            data = self.ask("/v1/admin/log/leaves", **{"from": at, "count": min(PAGE, below - at)})
            leaves = leaves_of(strictjson.parse(data), at)
            demand(0 < len(leaves) <= below - at, "authority-unreachable", f"leaf {at} isn't given out, or more than was asked for")
            yield data, leaves
            at += len(leaves)

    def leaves(self, below):
        """The leaves below an index, in order."""
        for _, leaves in self.leaf_pages(below):
            yield from leaves

    def head_pages(self):
        """Pages of all heads as they come, each with its heads."""
        at = 0
        while True:
            data = self.ask("/v1/admin/log/heads", **{"from": at, "count": PAGE})
            heads = heads_of(strictjson.parse(data))
            if not heads:
                return
            demand(heads[0].size >= at and heads[-1].size >= heads[0].size, "head-regressed", "heads go back")
            yield data, heads
            at = heads[-1].size + 1

    def heads(self, upto):
        """The heads up to a size, in order."""
        for _, heads in self.head_pages():
            for head in heads:
                if head.size > upto:
                    return
                yield head

    def newest_signed(self):
        """The size of the newest signed head."""
        return max((head.size for _, heads in self.head_pages() for head in heads if head.signatures), default=0)

    def export(self, out):
        """Writes an export (§11.3) that ends with a signed head."""
        newest, pages = 0, []
        for _, heads in self.head_pages():
            pages.append(heads)
            newest = max([newest] + [head.size for head in heads if head.signatures])
        for data, _ in self.leaf_pages(newest):
            out.write(data.strip() + b"\n")
        for heads in pages:
            texts = [head.note.decode() for head in heads if head.size <= newest]
            out.write(json.dumps({"heads": texts}).encode() + b"\n")
        return newest

    def feed(self):
        """The pages of a pull from nothing."""
        pages, control = [], 0
        while True:
            page = strictjson.parse(self.ask("/v1/feed", size=0, control=control))
            pages.append(page)
            well_formed = isinstance(page, dict) and isinstance(page.get("control"), list)
            demand(well_formed, "feed-malformed", "not a feed")
            if not page.get("more"):
                return pages
            demand(page["control"], "feed-malformed", "an empty page with more to follow")
            control += len(page["control"])
