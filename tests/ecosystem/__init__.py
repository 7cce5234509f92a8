"""Training code of others runs with a Pellucid optimizer as with one of torch's."""
