"""Operations: functions of arrays, without Flax modules and without configuration."""
