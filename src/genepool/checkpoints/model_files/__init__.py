"""Model files: config, tokenizer and the like beside the weights, compared and carried along."""
