"""Networks and fusions that break one promise each, for the conformance kit to catch."""
