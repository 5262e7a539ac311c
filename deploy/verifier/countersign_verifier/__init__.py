"""A second implementation of docs/PROTOCOL.md: checks artifacts, heads, proofs and whole logs.

Written from that page alone, without the authority's or the gateway's code, so that two readings of one text can be compared. It needs the
Python standard library and the package `cryptography`. It holds no key and contacts nobody unless it is told an address."""
