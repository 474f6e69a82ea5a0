"""The native checkpoint: portable codes in sharded safetensors, written atomically, with a hash of everything."""
