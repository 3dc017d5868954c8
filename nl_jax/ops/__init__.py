"""Operations: arrays in, arrays out; no Flax, no configuration."""
