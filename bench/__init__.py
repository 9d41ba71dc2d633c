"""How fast the gateway is, beside the least any such program must do. `make bench`; see docs/proof.md."""
