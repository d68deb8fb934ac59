"""One forward pass for both answers of a pair: each token once, and only the tokens that score."""
