"""The paper's equations: arrays in, arrays out. No config, no other processes, no model."""
