"""Files of weights, read without trust: safetensors, adapters, GGUF, models of the Hub."""
